"""Checkpoints that are whole or not there: safetensors and JSON in a folder that appears by one rename.

    checkpoints/step-00000500/  model.safetensors  optimizer.safetensors  ema.safetensors  state.json

Nothing in them is pickled. With FSDP the shards are gathered, so that any number of processes can go on from them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PREFIX = "step-"


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line and says what to do."""


def save(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write one checkpoint; it appears under its name only when all of it is on the disk."""
    target, partial = folder / f"{PREFIX}{step:08d}", folder / f".part-{step:08d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in files.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial / f"{name}.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, **state}))
        for path in partial.iterdir():
            sync(path)
        shutil.rmtree(target, ignore_errors=True)  # the same step, from a run that was resumed before it
        os.replace(partial, target)
        sync(folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        shutil.rmtree(partial, ignore_errors=True)
        last = latest(folder)
        kept = f"the last whole checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise TrainingError(
            f"the checkpoint of step {step} cannot be written to {folder} ({error}); {kept}."
        ) from error
    return target


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _all(folder)
    return found[-1] if found else None


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file name and the state of one checkpoint."""
    try:
        tensors = {path.stem: load_file(path) for path in sorted(checkpoint.glob("*.safetensors"))}
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"{checkpoint} cannot be read ({error}): remove it to go on from the one before."
        ) from error
    return tensors, state


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def optimizer_tensors(optimizer: Any, module: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as '<parameter>|<entry>' -> tensor, gathered from shards; numbers become tensors."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    found: dict[str, Tensor] = {}
    for parameter, entries in optimizer.state.items():
        for entry, value in entries.items():
            if value is not None:
                found[f"{names[parameter]}|{entry}"] = gathered(torch.as_tensor(value))
    return found


def load_optimizer(optimizer: Any, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took; TrainingError if it is of another model."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.rpartition("|")
        if name not in parameters:
            raise TrainingError(f"the optimiser's state is of another model: it knows a parameter {name}.")
        parameter = parameters[name]
        like = value.shape == parameter.shape and value.dim() > 0
        optimizer.state[parameter][entry] = scattered(value, parameter) if like else value


def model_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict, gathered from shards, on the CPU."""
    return {name: gathered(value) for name, value in module.state_dict().items()}


def load_model_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put a gathered state_dict back, whole or sharded."""
    own = module.state_dict()
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())
        raise TrainingError(
            f"the checkpoint is of another model: {len(differing)} keys differ, such as {differing[0]}."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            if own[name].shape != value.shape:
                raise TrainingError(f"the checkpoint is of another model: {name} has another shape there.")
            own[name].copy_(scattered(value, own[name]))


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on the CPU, in memory of its own."""
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return (tensor if full is None else full()).detach().to("cpu", copy=True)


def scattered(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed and sharded like another."""
    if not hasattr(like, "full_tensor"):
        return value.to(like.device, like.dtype)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(value.to(like.device, like.dtype), sharded.device_mesh, sharded.placements)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())
