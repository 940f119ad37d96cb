"""Distributed training: launcher, mixed precision, sharding, and gathering values across processes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from .recipe import Recipe

T = TypeVar("T")


def make_accelerator(recipe: Recipe, cpu: bool) -> Any:
    """Return accelerate's Accelerator for a recipe; ValueError if the device does not support it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    cpu = cpu or not torch.cuda.is_available()
    if cpu and recipe.precision == "fp16":
        raise ValueError("recipe: fp16 needs a GPU: on a CPU, use bf16 or fp32.")
    if recipe.sharding == "fsdp" and int(os.environ.get("WORLD_SIZE", "0")) < 1:
        raise ValueError("recipe: fsdp needs several processes: start it with torchrun, or set sharding ddp.")
    if recipe.sharding == "fsdp" and recipe.precision == "fp16":
        raise ValueError("recipe: fsdp does not support the loss scaling of fp16: use bf16 with fsdp.")
    # accelerate has one global state: without a reset, a second run would get the precision of the first.
    AcceleratorState._reset_state(reset_partial_state=not _group_exists())
    GradientState._reset_state()  # type: ignore[no-untyped-call]
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if recipe.precision == "fp32" else recipe.precision)
    # Keep the process group until the interpreter exits: a second group would find the keys of the first in the
    # launcher's store and wait for ever.
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    return accelerator


def shard(model: nn.Module, blocks: Iterable[nn.Module], accelerator: Any) -> None:
    """Shard each block, and the rest of the model, over the processes (FSDP2). Call it before making the optimiser.

    This calls torch directly: on CPUs, accelerate accepts an FSDP plugin but does not shard.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def from_all(accelerator: Any, mine: T) -> list[T]:
    """Gather a value from each process, in order of rank."""
    if accelerator.num_processes == 1:
        return [mine]
    found: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(found, mine)
    return found


def _leave_group() -> None:
    if _group_exists():
        torch.distributed.destroy_process_group()


def _group_exists() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
