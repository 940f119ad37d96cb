"""The processes that share a run: their launcher, precision and sharding, and what they tell each other."""

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
    """accelerate's Accelerator for a recipe. ValueError for a precision that the device has not."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    cpu = cpu or not torch.cuda.is_available()
    if cpu and recipe.precision == "fp16":
        raise ValueError("recipe: fp16 needs a GPU; on a CPU take bf16 or fp32.")
    if recipe.sharding == "fsdp" and int(os.environ.get("WORLD_SIZE", "0")) < 1:
        raise ValueError("recipe: fsdp shards over processes: start it by torchrun, or take sharding ddp.")
    if recipe.sharding == "fsdp" and recipe.precision == "fp16":
        raise ValueError("recipe: fp16 has no loss scaling over shards: take bf16 with fsdp.")
    # One state per interpreter: without this a second run would take over the precision of the first.
    AcceleratorState._reset_state(reset_partial_state=not _group_exists())
    GradientState._reset_state()  # type: ignore[no-untyped-call]
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if recipe.precision == "fp32" else recipe.precision)
    # The group of processes lives as long as the interpreter: a second one would meet the first one's keys in the
    # launcher's store, and wait for ever.
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)
    return accelerator


def rests_allowed() -> Any:
    """DDP's settings for a model of which some weights may get no gradient in an update."""
    from accelerate import DistributedDataParallelKwargs

    return DistributedDataParallelKwargs(find_unused_parameters=True)


def shard(model: nn.Module, blocks: Iterable[nn.Module], accelerator: Any) -> None:
    """Let each process hold a part of each block and of the rest (FSDP2); before the optimiser is made.

    Straight from torch: accelerate takes an FSDP plugin on CPUs without a word, and does not shard.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def from_all(accelerator: Any, mine: T) -> list[T]:
    """What each process has to tell, in their order."""
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
