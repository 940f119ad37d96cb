"""The only code that knows model libraries, one file each, imported when a model of that library comes."""
