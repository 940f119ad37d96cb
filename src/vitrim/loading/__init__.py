"""Models by name, file, folder or repository: the one way in."""
