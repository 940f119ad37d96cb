"""The common classes of vitrim's own warnings and errors."""

from __future__ import annotations


class VitrimWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""


class VitrimError(Exception):
    """Base: `UnsupportedModel`, `ImageDataError`, `ExportMismatch`, `TrainingError`. The message is one line.

    Each is also a ValueError or a RuntimeError. A wrong argument is a plain ValueError.
    """
