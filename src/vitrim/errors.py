"""The base of the errors that vitrim raises by classes of its own.

Each is a ValueError or RuntimeError too, as it was before there was a base. What is wrong with one argument is a plain
ValueError.
"""


class VitrimError(Exception):
    """Base: `UnsupportedModel`, `ImageDataError`, `ExportMismatch`, `TrainingError`. The message is one line."""
