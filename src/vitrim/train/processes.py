"""The processes that share a run: their launcher, precision and sharding, and what they tell each other."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from torch import nn

from .recipe import Recipe

T = TypeVar("T")
FSDP_FLAG = "ACCELERATE_USE_FSDP"  # accelerate sets it, and would shard the next run in this interpreter too


def make_accelerator(recipe: Recipe, cpu: bool) -> Any:
    """accelerate's Accelerator for a recipe. ValueError for a precision that the device has not."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, GradientState

    cpu = cpu or not torch.cuda.is_available()
    if cpu and recipe.precision == "fp16":
        raise ValueError("recipe: fp16 needs a GPU; on a CPU take bf16 or fp32.")
    # One state per interpreter: without this a second run would take over the precision and sharding of the first.
    AcceleratorState._reset_state(reset_partial_state=not _group_exists())
    GradientState._reset_state()  # type: ignore[no-untyped-call]
    os.environ.pop(FSDP_FLAG, None)
    plugin = None
    if recipe.sharding == "fsdp":
        if int(os.environ.get("WORLD_SIZE", "0")) < 1:
            raise ValueError("recipe: fsdp shards over processes: start it by torchrun, or take sharding ddp.")
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
    try:
        precision = "no" if recipe.precision == "fp32" else recipe.precision
        return Accelerator(cpu=cpu, mixed_precision=precision, fsdp_plugin=plugin)
    finally:
        os.environ.pop(FSDP_FLAG, None)


def name_shards(accelerator: Any, model: nn.Module, blocks: list[nn.Module]) -> None:
    """With FSDP: each block is a shard of its own, and so is the rest of the model, which is evaluated by itself."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.transformer_cls_names_to_wrap = sorted({type(part).__name__ for part in (model, *blocks)})


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds a part of the weights only."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def from_all(accelerator: Any, mine: T) -> list[T]:
    """What each process has to tell, in their order."""
    if accelerator.num_processes == 1:
        return [mine]
    found: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(found, mine)
    return found


def _group_exists() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
