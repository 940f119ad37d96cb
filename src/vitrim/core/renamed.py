"""Old names that methods of others may still use. They work, and warn with the new name."""

from __future__ import annotations

import warnings
from typing import Any


def alias(cls: type, old: str, new: str) -> None:
    """Give an attribute its old name as well."""

    def renamed(self: Any) -> Any:
        _warn(f"{cls.__name__}.{old}", new)
        return getattr(self, new)

    setattr(cls, old, property(renamed))


def bridge(cls: type, old: str, new: str) -> None:
    """Let a class override a method by its old name, and its subclasses call it by that name."""
    own = vars(cls)
    if new not in own:
        if old in own:
            _warn(f"{cls.__name__}.{old}", new)
            setattr(cls, new, own[old])
        return

    def renamed(*args: Any) -> Any:
        _warn(f"{cls.__name__}.{old}", new)
        return own[new](*args)

    if old not in own:
        setattr(cls, old, renamed)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}.", DeprecationWarning, stacklevel=3)
