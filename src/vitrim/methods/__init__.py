"""All methods. One paper is one file, or one package. A new method needs that, two lines here, and its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..core.exits import Exits
from ..core.method import Method
from ..tuned_folder import is_tuned, setting_in
from .atc import ATC
from .attention_mass import AttentionMass
from .baselines import Random
from .bat import BeyondAttentive
from .diffrate import DiffRate
from .dtem import DTEM
from .evit import EViT
from .gtp import GTP
from .ltmp import LTMP
from .metr import METR, title
from .pitome import PiToMe
from .ppt import PPT
from .registry import (
    add,
    classes,
    create_method,
    list_methods,
    makers,
    parameters,
    register_method,
    resolve,
    settings_of,
)
from .tofu import ToFu
from .token_mergence import TokenMergence
from .tome import ToMe
from .vid_tldr import VidTLDR
from .ward import Ward

__all__ = [
    "ATC",
    "BAT",
    "DTEM",
    "GTP",
    "LTMP",
    "METR",
    "PPT",
    "TM",
    "AttentionMass",
    "BeyondAttentive",
    "DiffRate",
    "EViT",
    "PiToMe",
    "Random",
    "ToFu",
    "ToMe",
    "TokenMergence",
    "VidTLDR",
    "Ward",
    "classes",
    "create_method",
    "list_methods",
    "makers",
    "parameters",
    "register_method",
    "resolve_method",
    "settings_of",
    "title",
]


TM, BAT = TokenMergence, BeyondAttentive


def resolve_method(method: Method | str, exits: Exits | Sequence[int] | None, settings: Mapping[str, Any]) -> Method:
    """A method as it is or by its name, with these exits; or what `vitrim tune` found, from its folder."""
    if isinstance(method, str) and is_tuned(method):
        method, found = setting_in(method)
        settings = {**found, **settings}
    return resolve(method, exits, settings)


def metr(method: Method | str = "evit", **settings: Any) -> Method:
    """METR with a method or the name of one, by default EViT with fusion. Settings that METR lacks go to the method."""
    own = parameters(METR)
    inner = {name: value for name, value in settings.items() if name not in own}
    if isinstance(method, str):
        method = create_method(method, **inner)
    elif inner:
        raise TypeError(f"{', '.join(inner)} go with a method's name, and {method!r} is already made")
    return METR(method=method, **{name: value for name, value in settings.items() if name in own})


def _settings_of_metr() -> dict[str, Any]:
    """METR's settings and those of EViT, its default method."""
    return {key: each.default for key, each in parameters(METR).items()} | {"method": "evit"} | settings_of("evit")


PAPERS = (EViT, TokenMergence, BeyondAttentive, ToMe, DiffRate, PPT, PiToMe, ToFu, VidTLDR, GTP, ATC, DTEM, LTMP)
for _cls in (*PAPERS, Ward, AttentionMass, Random):
    register_method(_cls)
add("evit-nofuse", partial(EViT, fuse=False))
add("evit+bat", partial(BeyondAttentive, inattentive="fuse"))
add("feature_norm", partial(EViT, fuse=False, scorer="norm"))
add("representation_shift", partial(EViT, fuse=False, scorer="shift"))
add("metr", metr, METR, _settings_of_metr)
