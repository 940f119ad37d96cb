"""What all reports share: the page with its styles and script, charts, tables, and files to download."""
