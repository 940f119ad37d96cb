"""Vision Transformers made faster by carrying fewer tokens.

>>> import timm, vitrim
>>> model = vitrim.reduce_tokens(timm.create_model("deit_tiny_patch16_224"), "evit", keep_rate=0.7)

Names are imported on first use, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .api import create_method, list_methods, method_of, reduce_tokens, restore
    from .backbones.reader import UnsupportedModel
    from .class_attention import ClsQuality, cls_quality
    from .core.exits import Exits
    from .core.method import Method
    from .dense import DenseFeatures, features
    from .draw import draw_tokens
    from .early_exit.calibration import AnytimeScore, ExitRecord, calibrate_anytime, record_exits
    from .early_exit.model import Anytime, Prediction, anytime
    from .errors import VitrimError
    from .export.export_model import ExportReport, export_model
    from .export.verify import ExportMismatch
    from .loading.build import build_model, load_model
    from .loading.from_pretrained import from_pretrained
    from .measure.batches import ImageBatches
    from .measure.benchmark import Timing, benchmark
    from .measure.budget.targets import method_for_keep_rate, method_for_macs
    from .measure.diversity import diversity
    from .measure.evaluate import Score
    from .measure.folder import evaluate_folder, load_images
    from .measure.macs import count_macs
    from .measure.pixels import ImageDataError
    from .measure.turns import Spread
    from .methods import (
        ATC,
        BAT,
        DTEM,
        GTP,
        LTMP,
        METR,
        PPT,
        TM,
        AttentionMass,
        BeyondAttentive,
        DiffRate,
        EViT,
        PiToMe,
        Random,
        ToFu,
        TokenMergence,
        ToMe,
        VidTLDR,
        Ward,
        register_method,
    )
    from .quantize import quantize_int8
    from .saving.hub import push_to_hub
    from .saving.write import save_pretrained
    from .tracing import LayerTrace, Trace, trace
    from .train.checkpoint import TrainingError
    from .train.recipe import Recipe, load_recipe
    from .train.run_recipe import run_recipe
    from .train.task import ClassificationTask
    from .tuning.outcome import Tuned
    from .tuning.run import tune

__all__ = [
    "ATC",
    "BAT",
    "DTEM",
    "GTP",
    "LTMP",
    "METR",
    "PPT",
    "TM",
    "Anytime",
    "AnytimeScore",
    "AttentionMass",
    "BeyondAttentive",
    "ClassificationTask",
    "ClsQuality",
    "DenseFeatures",
    "DiffRate",
    "EViT",
    "ExitRecord",
    "Exits",
    "ExportMismatch",
    "ExportReport",
    "ImageBatches",
    "ImageDataError",
    "LayerTrace",
    "Method",
    "PiToMe",
    "Prediction",
    "Random",
    "Recipe",
    "Score",
    "Spread",
    "Timing",
    "ToFu",
    "ToMe",
    "TokenMergence",
    "Trace",
    "TrainingError",
    "Tuned",
    "UnsupportedModel",
    "VidTLDR",
    "VitrimError",
    "Ward",
    "anytime",
    "benchmark",
    "build_model",
    "calibrate_anytime",
    "cls_quality",
    "count_macs",
    "create_method",
    "diversity",
    "draw_tokens",
    "evaluate_folder",
    "export_model",
    "features",
    "from_pretrained",
    "list_methods",
    "load_images",
    "load_model",
    "load_recipe",
    "method_for_keep_rate",
    "method_for_macs",
    "method_of",
    "push_to_hub",
    "quantize_int8",
    "record_exits",
    "reduce_tokens",
    "register_method",
    "restore",
    "run_recipe",
    "save_pretrained",
    "trace",
    "tune",
]

_HOME = {  # module: its public names
    ".api": "create_method list_methods method_of reduce_tokens restore",
    ".backbones.reader": "UnsupportedModel",
    ".core.exits": "Exits",
    ".core.method": "Method",
    ".dense": "DenseFeatures features",
    ".draw": "draw_tokens",
    ".early_exit.model": "Anytime Prediction anytime",
    ".errors": "VitrimError",
    ".export.export_model": "ExportReport export_model",
    ".export.verify": "ExportMismatch",
    ".loading.build": "build_model load_model",
    ".measure.batches": "ImageBatches",
    ".measure.benchmark": "Timing benchmark",
    ".early_exit.calibration": "AnytimeScore ExitRecord calibrate_anytime record_exits",
    ".class_attention": "ClsQuality cls_quality",
    ".measure.diversity": "diversity",
    ".measure.evaluate": "Score",
    ".measure.folder": "evaluate_folder load_images",
    ".measure.macs": "count_macs",
    ".measure.pixels": "ImageDataError",
    ".measure.budget.targets": "method_for_keep_rate method_for_macs",
    ".measure.turns": "Spread",
    ".methods": "ATC BAT DTEM GTP LTMP METR PPT TM AttentionMass BeyondAttentive DiffRate EViT PiToMe Random ToFu ToMe "
    "TokenMergence VidTLDR Ward register_method",
    ".saving.hub": "push_to_hub",
    ".loading.from_pretrained": "from_pretrained",
    ".saving.write": "save_pretrained",
    ".quantize": "quantize_int8",
    ".tracing": "LayerTrace Trace trace",
    ".train.checkpoint": "TrainingError",
    ".train.recipe": "Recipe load_recipe",
    ".train.run_recipe": "run_recipe",
    ".train.task": "ClassificationTask",
    ".tuning.outcome": "Tuned",
    ".tuning.run": "tune",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}
_RENAMED = {"method_from": "create_method"}  # old name: new name


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"vitrim.{name} is now vitrim.{_RENAMED[name]}.", DeprecationWarning, stacklevel=2)
    home = _MODULE.get(_RENAMED.get(name, name))
    if home is None:
        raise AttributeError(f"module 'vitrim' has no attribute {name!r}; it has {', '.join(__all__)}.")
    value = getattr(importlib.import_module(home, __name__), _RENAMED.get(name, name))
    globals()[name] = value  # so that an old name warns once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
