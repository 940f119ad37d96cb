"""The category of vitrim's own warnings."""

from __future__ import annotations


class VitrimWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""
