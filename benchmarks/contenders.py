"""Every method and rival at a ratio of multiply-adds: the rows of the league table.

The last MLP on patches that nobody reads counts for every method, whether the method skips it or not. So none is
credited for what an unreduced model could skip as well.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.compare.method_text import written
from vitrim.core.method import Method
from vitrim.core.spec import ViTSpec
from vitrim.measure.budget.formula import reduced_macs, token_counts
from vitrim.measure.budget.targets import method_for_macs
from vitrim.methods import create_method, list_methods
from vitrim.rivals import UNREDUCED, Rival, patch_size

CLOSE = 1.02  # a rival comes in steps: so much more than the wanted multiply-adds still counts
SAME = {"metr": "evit"}  # without training, these answer as others do
ALWAYS = {UNREDUCED: None, "int8": Rival("int8"), "unread": Rival("unread")}  # of no ratio
STEPWISE = ("resolution", "depth")
KINDS = ("method", "rival")


@dataclass(frozen=True)
class Contender:
    """A model of the league, or why there is none."""

    name: str
    kind: str  # unreduced, method or rival
    setting: str = ""
    model: nn.Module | None = None
    charged: float = 0.0  # multiply-adds, those of unread work included
    reason: str = ""


def names() -> list[str]:
    """All contenders: the unreduced model, the rivals, every registered method."""
    return [*ALWAYS, *STEPWISE, *list_methods()]


def applies(name: str, ratio: float) -> bool:
    """Whether a contender has a row at this ratio; 1 stands for those that have none."""
    return (name in ALWAYS) == (ratio == 1)


def load_plugin(path: str) -> None:
    """Run a Python file, which registers methods. Nothing for an empty path."""
    if not path:
        return
    if not Path(path).is_file():
        raise SystemExit(f"--plugin is a Python file that registers methods, and there is no {path}.")
    name = f"plugin_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def make(model: nn.Module, name: str, ratio: float) -> Contender:
    """A contender at a ratio of multiply-adds of the whole model, or the reason why it has no row."""
    full = vitrim.count_macs(model)
    if name == UNREDUCED:
        return Contender(name, UNREDUCED, "", model, full)
    rival = ALWAYS.get(name)
    try:
        if rival is None and name in STEPWISE:
            rival = _largest(model, name, full / ratio)
        if rival is not None:
            made = rival.make(model)
            macs = full if name in ALWAYS else vitrim.count_macs(made)
            return Contender(name, "rival", rival.key[1], made, macs)
        return _reduced(model, name, full / ratio)
    except ValueError as error:
        return Contender(name, "method", reason=str(error))


def _largest(model: nn.Module, kind: str, macs: float) -> Rival:
    """The rival of a kind with the most multiply-adds of at most so many, up to 2 %."""
    for rival in _steps(model, kind):
        if vitrim.count_macs(rival.make(model)) <= CLOSE * macs:
            return rival
    raise ValueError(f"no {kind} costs so little")


def _steps(model: nn.Module, kind: str) -> Iterator[Rival]:
    """All rivals of a kind, the most expensive first."""
    spec, patch = read_backbone(model).spec, patch_size(model)
    if kind == "depth":
        yield from (Rival("depth", depth) for depth in range(spec.depth - 1, 0, -1))
    else:
        side = round(spec.num_patches**0.5)
        yield from (Rival("resolution", patch * patches) for patches in range(side - 1, 0, -1))


def _reduced(model: nn.Module, name: str, macs: float) -> Contender:
    """A method that is charged at most so many multiply-adds."""
    if name in SAME:
        return Contender(name, "method", reason=f"without training it answers as {SAME[name]} does")
    if create_method(name).varies:
        return Contender(name, "method", reason="its cost varies with the image, so no formula meets a ratio")
    spec, full = read_backbone(model).spec, vitrim.count_macs(model)
    method, asked = method_for_macs(model, name, macs / 1e9), macs
    while (over := charged(full, spec, method) - macs) > 0:
        asked -= over
        method = method_for_macs(model, name, asked / 1e9)
    reduced = vitrim.reduce_tokens(copy.deepcopy(model), method)
    if set(reduced.state_dict()) - set(model.state_dict()):
        return Contender(name, "method", reason="it learns weights, and there are none without training")
    return Contender(name, "method", setting_of(method, spec), reduced, charged(full, spec, method))


def charged(full: int, spec: ViTSpec, method: Method) -> int:
    """Multiply-adds of a reduced model if the last MLP ran on all patches that enter the last block."""
    before, after = (spec.num_patches, *token_counts(spec, method))[-2:]
    skipped = 0 if spec.pools_patches or method.after_mlp else max(before - after, 0)
    return reduced_macs(full, spec, method) + skipped * spec.mlp_macs


def setting_of(method: Method, spec: ViTSpec) -> str:
    """The setting that was solved for, in words."""
    amount = method.amount
    value = None if amount is None else getattr(method, amount.setting)
    if amount is not None and isinstance(value, int | float):
        return amount.words.format(value)
    tokens = [count - spec.num_prefix for count in token_counts(spec, method)]
    return written({"patches": tokens}) if amount is None else written({amount.setting: value})


@cache
def base_model(name: str, checkpoint: str) -> nn.Module:
    """The unreduced model with its weights."""
    return vitrim.load_model(name, checkpoint or None)


def column_values(made: Contender, full: int) -> Mapping[str, object]:
    """The columns that accuracy and speed share."""
    counted = None if made.model is None else vitrim.count_macs(made.model)
    return {
        "kind": made.kind,
        "setting": made.setting,
        "gmacs": "" if counted is None else f"{counted / 1e9:.4f}",
        "mac_ratio": None if counted is None else full / counted,
        "charged_ratio": full / made.charged if made.charged else None,
        "reason": made.reason,
    }
