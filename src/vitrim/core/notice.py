"""What vitrim warns of, told apart from what other libraries warn of."""

from __future__ import annotations


class VitrimWarning(UserWarning):
    """Something that a user should know and that stops nothing."""
