"""Vision Transformers made faster by carrying fewer tokens.

>>> import timm, vitrim
>>> model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), "evit", keep_rate=0.7)

Names are imported on first use (`public.py`), so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .public import *  # noqa: F403

_RENAMED = {"method_from": "create_method"}  # old name: new name


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if importlib.util.find_spec(f"{__name__}.{name}"):  # asked for before it is imported, by `from vitrim import draw`
        raise AttributeError(f"module 'vitrim.{name}' is not imported yet.")
    if name in _RENAMED:
        warnings.warn(f"vitrim.{name} is now vitrim.{_RENAMED[name]}.", DeprecationWarning, stacklevel=2)
    try:
        value = _public()[_RENAMED.get(name, name)]
    except KeyError:
        raise AttributeError(f"module 'vitrim' has no attribute {name!r}; it has {', '.join(__dir__())}.") from None
    globals()[name] = value  # so that an old name warns once
    return value


def __dir__() -> list[str]:
    return sorted(name for name in _public() if not name.startswith("_"))


def _public() -> dict[str, Any]:
    return vars(importlib.import_module(".public", __name__))
