"""The base of vitrim's own error classes.

Each is also a ValueError or a RuntimeError. A wrong argument is a plain ValueError.
"""


class VitrimError(Exception):
    """Base: `UnsupportedModel`, `ImageDataError`, `ExportMismatch`, `TrainingError`. The message is one line."""
