"""Write and read checkpoints: folders of safetensors and JSON that appear complete or not at all.

    checkpoints/step-00000500/  model.safetensors  optimizer.safetensors  ema.safetensors  state.json

Nothing is pickled. FSDP's shards are gathered, so any number of processes can resume from a checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.notice import VitrimError
from ..kinds import read_object
from ..store import discard, replacing_folder
from ..temporary import remove_left
from ..text import shown

PREFIX = "step-"
GROUP = "group."  # prefix of tensors that an optimiser keeps per group of parameters


class TrainingError(VitrimError, RuntimeError):
    """Training cannot continue. The message is one line and says what to do."""


def save(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint. It gets its name only after all of it is on the disk.

    Raises TrainingError if it cannot be written, or holds NaN or infinity. Earlier checkpoints are not changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    _check_finite(folder, step, files)
    target = folder / f"{PREFIX}{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_folder(target) as new:
            for name, tensors in files.items():
                save_file({key: value.contiguous() for key, value in tensors.items()}, new / f"{name}.safetensors")
            (new / "state.json").write_text(json.dumps({"step": step, **state}))
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"the checkpoint of update {step} cannot be written to {folder} ({reason}). Correct this and start the "
            f"same command again. {last_checkpoint(folder)}"
        ) from error
    return target


def last_checkpoint(folder: Path) -> str:
    """A sentence that names the checkpoint from which a stopped run resumes."""
    last = latest(folder)
    return f"The last checkpoint is {last}." if last else "There is no checkpoint yet."


def _check_finite(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    for name, tensors in files.items():
        if (bad := _not_finite(tensors)) is not None:
            raise TrainingError(
                f"after update {step} the {name} holds NaN or infinity (in {bad}) and is not saved: lower lr, raise "
                f"warmup_epochs, or set clip_grad. {last_checkpoint(folder)}"
            )


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that holds NaN or infinity."""
    return next((key for key, each in tensors.items() if each.is_floating_point() and not each.isfinite().all()), None)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for old in _all(folder)[:-keep]:
        discard(old)


def clean(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    remove_left(folder)
    for path in folder.glob(".part-*"):  # the name in earlier versions
        shutil.rmtree(path, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    found = _all(folder)
    return found[-1] if found else None


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint: its tensors by file name, and its state."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = read_object(checkpoint / "state.json")
        tensors = {path.stem: load_file(path) for path in sorted(checkpoint.glob("*.safetensors"))}
        missing = sorted({"model", "optimizer"} - tensors.keys())
        if missing:
            raise ValueError(f"{missing[0]}.safetensors is missing")
        for name, each in tensors.items():
            if (bad := _not_finite(each)) is not None:
                raise ValueError(f"{name}.safetensors holds NaN or infinity in {bad}")
    except (OSError, ValueError, SafetensorError) as error:
        raise unreadable(checkpoint, error) from error
    return tensors, state


def unreadable(checkpoint: Path, error: Exception) -> TrainingError:
    """The error for a damaged checkpoint."""
    return TrainingError(f"{checkpoint} cannot be read ({shown(error)}): remove it to resume from an earlier one.")


def step_of(checkpoint: Path) -> int:
    """The number of updates in a checkpoint's name; -1 if there is none."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if number.isdecimal() else -1


def optimizer_state(optimizer: Any, module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimiser's tensors, named '<parameter>|<entry>' and gathered from shards, and its plain values.

    The name is empty for an entry that belongs to no parameter. The values are those of parameters and of groups.
    """
    names: dict[Any, str] = {parameter: name for name, parameter in module.named_parameters()}
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for parameter, entries in optimizer.state.items():
        if isinstance(parameter, str):
            names[parameter], entries = "", {parameter: entries}
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{names[parameter]}|{entry}"] = gathered(value)
            elif value is not None:
                values[f"{names[parameter]}|{entry}"] = value
    for i, group in enumerate(optimizer.param_groups):
        tensors |= {f"|{GROUP}{i}.{key}": each.clone() for key, each in group.items() if isinstance(each, Tensor)}
    groups = [{key: each for key, each in group.items() if _is_plain(each)} for group in optimizer.param_groups]
    return tensors, {"values": values, "groups": groups}


def load_optimizer(optimizer: Any, module: nn.Module, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Restore what `optimizer_state` returned; TrainingError if it belongs to another model or optimiser."""
    parameters = dict(module.named_parameters())
    for key, value in {**tensors, **plain["values"]}.items():
        name, _, entry = key.rpartition("|")
        if not name and entry.startswith(GROUP):
            i, _, entry = entry.removeprefix(GROUP).partition(".")
            if not i.isdecimal() or int(i) >= len(optimizer.param_groups):
                raise TrainingError(f"the state belongs to another optimiser: it has a group {shown(i, 20)}.")
            optimizer.param_groups[int(i)][entry] = value
            continue
        if not name:
            optimizer.state[entry] = value
            continue
        if name not in parameters:
            raise TrainingError(f"the optimiser's state belongs to another model: it has a parameter {shown(name)}.")
        parameter = parameters[name]
        if isinstance(value, Tensor) and value.dim() > 0:  # optimisers keep scalars on the CPU
            like = value.shape == parameter.shape
            value = scattered(value, parameter, value.dtype) if like else value.to(parameter.device)
        optimizer.state[parameter][entry] = value
    if len(plain["groups"]) != len(optimizer.param_groups):
        raise TrainingError(f"the state belongs to another optimiser: it has {len(plain['groups'])} groups.")
    for group, saved in zip(optimizer.param_groups, plain["groups"], strict=True):
        odd = [key for key, each in saved.items() if isinstance(each, str) != isinstance(group.get(key, each), str)]
        if odd:
            raise TrainingError(f"the state belongs to another optimiser: {shown(odd[0])} is {shown(saved[odd[0]])}.")
        group.update(saved)


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | bool)


def model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict, gathered from shards, on the CPU."""
    return {name: gathered(value) for name, value in module.state_dict().items()}


def load_model_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a gathered state_dict into a module, which may be sharded."""
    own = module.state_dict()
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())
        raise TrainingError(
            f"the checkpoint belongs to another model: {len(differing)} keys differ, such as {differing[0]}."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            for what in ("shape", "dtype"):
                if getattr(own[name], what) != getattr(value, what):
                    raise TrainingError(f"the checkpoint belongs to another model: {name} has another {what}.")
            own[name].copy_(scattered(value, own[name]))


def gathered(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU of a tensor, gathered if it is sharded."""
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return (tensor if full is None else full()).detach().to("cpu", copy=True)


def scattered(value: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Move and shard a tensor like another one, in that one's dtype or in the one given."""
    value = value.to(like.device, dtype or like.dtype)
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value, sharded.device_mesh, sharded.placements)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
