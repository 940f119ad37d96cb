"""All methods. One paper is one file, or one package. A new method needs that, two lines here, and its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..core.exits import Exits
from ..core.method import Method
from ..tuned_folder import is_tuned, setting_in
from .atc import ATC as ATC
from .ats import ATS as ATS
from .attention_mass import AttentionMass as AttentionMass
from .baselines import Random as Random
from .bat import BeyondAttentive as BeyondAttentive
from .diffrate import DiffRate as DiffRate
from .dpc_knn import DPCKNN as DPCKNN
from .dtem import DTEM as DTEM
from .dynamicvit import DynamicViT as DynamicViT
from .evit import EViT as EViT
from .evo_vit import EvoViT as EvoViT
from .gtp import GTP as GTP
from .k_medoids import KMedoids as KMedoids
from .ltmp import LTMP as LTMP
from .mctf import MCTF as MCTF
from .merge_alike import MergeAlike as MergeAlike
from .metr import METR as METR
from .metr import title as title
from .patch_merger import PatchMerger as PatchMerger
from .pitome import PiToMe as PiToMe
from .ppt import PPT as PPT
from .registry import add, resolve
from .registry import classes as classes
from .registry import create_method as create_method
from .registry import list_methods as list_methods
from .registry import makers as makers
from .registry import parameters as parameters
from .registry import register_method as register_method
from .registry import settings_of as settings_of
from .sinkhorn import Sinkhorn as Sinkhorn
from .sit import SiT as SiT
from .tofu import ToFu as ToFu
from .token_mergence import TokenMergence as TokenMergence
from .tome import ToMe as ToMe
from .tps import TPS as TPS
from .vid_tldr import VidTLDR as VidTLDR
from .ward import Ward as Ward

TM, BAT = TokenMergence, BeyondAttentive


def resolve_method(method: Method | str, exits: Exits | Sequence[int] | None, settings: Mapping[str, Any]) -> Method:
    """A method as it is or by its name, with these exits; or what `vitrim tune` found, from its folder."""
    if isinstance(method, str) and is_tuned(method):
        method, found = setting_in(method)
        settings = {**found, **settings}
    return resolve(method, exits, settings)


PAPERS = (EViT, TokenMergence, BeyondAttentive, ToMe, DiffRate, PPT, PiToMe, ToFu, VidTLDR, GTP, ATC, DTEM, LTMP)
BEFORE_ATTENTION = (DPCKNN, KMedoids, Sinkhorn, PatchMerger, SiT, MCTF, DynamicViT, TPS, EvoViT, ATS)
for _cls in (*PAPERS, *BEFORE_ATTENTION, Ward, AttentionMass, MergeAlike, Random):
    register_method(_cls)
add("evit-nofuse", partial(EViT, fuse=False))
add("evit+bat", partial(BeyondAttentive, inattentive="fuse"))
add("feature_norm", partial(EViT, fuse=False, scorer="norm"))
add("representation_shift", partial(EViT, fuse=False, scorer="shift"))
add("metr", METR)
