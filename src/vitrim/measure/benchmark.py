"""Speed and memory of several models, measured together.

The models take turns (turns.py), and speed-ups are ratios within a round. A model that runs after another one with the
same weights finds them in the cache. So either all models to compare share their weights (`clone_sharing_weights`), or
none do.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ..heads import check_module
from ..kinds import is_whole
from .forwards import check_device, evaluating
from .noise import random_images, shape
from .peak_memory import PeakMemory, stored
from .turns import HasSpeedup, Spread, Turns, speed_ratio, take_turns

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES = dict(zip(get_args(Dtype), (torch.float32, torch.bfloat16, torch.float16), strict=True))
MIB = 2**20
# Each model is another graph of the same forward. By default, torch runs models after the first few uncompiled.
ANY_NUMBER = {"recompile_limit": 1000, "accumulated_recompile_limit": 10_000, "fail_on_recompile_limit_hit": True}
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Timing(HasSpeedup):
    """Speed of a model: medians over the rounds, and the speed-up over the baseline."""

    images_per_s: float
    latency_ms: float  # of one batch
    speedup: Spread  # over the baseline in the same round
    rounds: int
    peak_memory_mb: float  # peak MiB of weights, input and activations during a forward
    seconds: tuple[float, ...] = field(default=(), repr=False)  # of one batch, in each round

    def speed_over(self, other: Timing) -> Spread:
        """The speed relative to another model of the same rounds."""
        return speed_ratio(self.seconds, other.seconds)


def benchmark(
    models: Mapping[str, nn.Module],
    input_size: tuple[int, int, int] | Mapping[str, tuple[int, int, int]] = (3, 224, 224),
    *,
    batch_size: int = 32,
    rounds: int = 30,
    warmup: int = 3,
    device: torch.device | str = "cpu",
    dtype: Dtype = "fp32",
    compile: bool | str = False,
    baseline: str | None = None,
    images_ICHW: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    **model_kwargs: Any,
) -> dict[str, Timing]:
    """Time the forwards of several models in turns.

    A sample is as many forwards in a row as take 20 ms. Models are not changed: one with another dtype or device is
    copied, and shared weights stay shared. Memory is that of one batch: of the allocator on CUDA, else of live tensors
    (`PeakMemory`). For a compiled model, it is the memory of the uncompiled one.

    Args:
        models: models by name.
        input_size: channels, height and width of the random images; by the model's name if they differ.
        batch_size: images per batch.
        rounds: samples of each model.
        warmup: forwards of each model before the first sample.
        device: where the models run.
        dtype: data type of weights and images.
        compile: use torch.compile; a string is its mode ("reduce-overhead": CUDA graphs).
        baseline: the model whose speed-up is 1. Default: the first.
        images_ICHW: images instead of random ones, for input-adaptive models. They are split into batches of
            batch_size, and a sample is one pass over all of them.
        progress: called after each round with rounds done and their total.
        **model_kwargs: passed to the forward of every model.

    Returns:
        A timing for each name.

    Raises:
        ValueError: for invalid settings.
    """
    first = _check(models, batch_size=batch_size, rounds=rounds, warmup=warmup, dtype=dtype, baseline=baseline)
    target, copies = check_device(device), dict[int, Any]()
    images = _images(models, input_size, batch_size, images_ICHW)
    batches = {id(each): _batches(each, batch_size, target, DTYPES[dtype]) for each in images.values()}
    on_target = {name: moved(model, target, DTYPES[dtype], copies) for name, model in models.items()}
    runners = {
        name: _Runner(model, batches[id(images[name])], compile, model_kwargs) for name, model in on_target.items()
    }
    timed = _timed(runners, rounds, warmup, target, progress)
    return {name: _timing(timed, name, first, runner) for name, runner in runners.items()}


def _images(
    models: Mapping[str, nn.Module],
    input_size: tuple[int, int, int] | Mapping[str, tuple[int, int, int]],
    batch_size: int,
    given_ICHW: Tensor | None,
) -> dict[str, Tensor]:
    """The images of each model, [I, C, H, W]; models of equal size share theirs."""
    if given_ICHW is not None:
        return dict.fromkeys(models, given_ICHW)
    sizes = input_size if isinstance(input_size, Mapping) else dict.fromkeys(models, input_size)
    if missing := [name for name in models if name not in sizes]:
        raise ValueError(f"input_size has no size for {', '.join(missing)}: give one for each model, or one for all.")
    different = {str(size): size for size in sizes.values()}
    made = {name: random_images(batch_size, size) for name, size in different.items()}
    return {name: made[str(sizes[name])] for name in models}


def _batches(images_ICHW: Tensor, batch_size: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Split the images into batches [B, C, H, W]. They are copies: a view would count as the memory of all images."""
    if not isinstance(images_ICHW, Tensor) or images_ICHW.ndim != 4 or len(images_ICHW) == 0:
        raise ValueError(f"benchmark needs at least one image, [I, C, H, W], not {shape(images_ICHW)}.")
    return [part.to(device, dtype, copy=True) for part in torch.split(images_ICHW, batch_size)]


def _timed(
    runners: Mapping[str, _Runner],
    rounds: int,
    warmup: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> Turns:
    """Warm up, then measure the seconds of one batch in each round."""
    with ExitStack() as stack, torch.inference_mode():
        if any(runner.compile for runner in runners.values()):
            stack.enter_context(importlib.import_module("torch._dynamo.config").patch(ANY_NUMBER))
        for runner in runners.values():
            stack.enter_context(evaluating(runner.model))
            runner.prepare(warmup)
        turns = take_turns(runners, rounds, warmup=0, wait=partial(wait_for, device), progress=progress)
    num_batches = {name: len(runner.batches) for name, runner in runners.items()}
    return Turns({name: tuple(each / num_batches[name] for each in own) for name, own in turns.seconds.items()})


def clone_sharing_weights(model: M) -> M:
    """Copy a model, but share its parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


@dataclass
class _Runner:
    """A model with its batches. The caller sets eval and inference mode."""

    model: nn.Module
    batches: Sequence[Tensor]  # [B, C, H, W], the largest first
    compile: bool | str
    model_kwargs: Mapping[str, Any]
    peak_bytes: int = 0
    forward: Callable[..., object] = field(init=False)

    def __post_init__(self) -> None:
        mode = self.compile if isinstance(self.compile, str) else None
        self.forward = torch.compile(self.model, mode=mode) if self.compile else self.model

    def __call__(self) -> None:
        """Run one forward on each batch."""
        for x_BCHW in self.batches:
            self.forward(x_BCHW, **self.model_kwargs)

    def prepare(self, warmup: int) -> None:
        """Warm up and measure memory."""
        for _ in range(max(1, warmup)):
            self()
        self.peak_bytes = self._peak_bytes()

    def _peak_bytes(self) -> int:
        x_BCHW, device = self.batches[0], self.batches[0].device
        own = [*self.model.parameters(), *self.model.buffers(), x_BCHW]
        if device.type != "cuda":
            with PeakMemory(own) as memory:
                self.model(x_BCHW, **self.model_kwargs)
            return memory.peak_bytes
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        self.forward(x_BCHW, **self.model_kwargs)
        wait_for(device)
        return (
            torch.cuda.max_memory_allocated(device)
            - before
            + sum(part.nbytes for tensor in own for part in stored(tensor))
        )


def _check(
    models: Mapping[str, nn.Module], *, batch_size: int, rounds: int, warmup: int, dtype: str, baseline: str | None
) -> str:
    """Check the settings. Returns the name of the baseline."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError("benchmark needs at least one model, by name: {'mine': model}.")
    for model in models.values():
        check_module(model)
    if not (is_whole(batch_size, 1) and is_whole(rounds, 1) and is_whole(warmup, 0)):
        raise ValueError(
            "benchmark needs whole numbers: batch_size and rounds of at least 1, warmup of at least 0, not "
            f"batch_size={batch_size!r}, rounds={rounds!r}, warmup={warmup!r}."
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    first = next(iter(models)) if baseline is None else baseline
    if first not in models:
        raise ValueError(f"the baseline {first!r} is not among the models {', '.join(models)}.")
    return first


def moved(
    model: nn.Module, device: torch.device, dtype: torch.dtype, copies: dict[int, Any] | None = None
) -> nn.Module:
    """Return the model if it has this device and dtype, else a copy that has. copies: memo of `copy.deepcopy`."""
    tensors = [*model.parameters(), *model.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    fits = all(t.device == device for t in tensors) and all(t.dtype == dtype for t in floating)
    return model if fits else copy.deepcopy(model, copies).to(device, dtype)


def _timing(turns: Turns, name: str, baseline: str, runner: _Runner) -> Timing:
    latency, seconds = turns.median(name), turns.seconds[name]
    speedup, per_batch = turns.ratio(name, baseline), sum(map(len, runner.batches)) / len(runner.batches)
    return Timing(per_batch / latency, latency * 1e3, speedup, len(seconds), runner.peak_bytes / MIB, seconds)


def wait_for(device: torch.device) -> None:
    """Wait until an asynchronous device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
