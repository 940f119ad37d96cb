"""From a model to an artefact that is known to compute the same: write, run, compare, measure, and only then keep.

Shape letters: B batch, I images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, restored
from ..core.method import Method
from ..measure.evaluate import evaluating, input_size_of
from .card import card, card_path
from .logits import Logits
from .route import Route, Runner, find_route
from .timing import Speed, measure
from .verify import Difference, check, compare

TOLERANCE = 1e-4
BATCH_SIZES = (1, 7)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, how close it is to the model, and how fast it is."""

    path: Path  # of the artefact
    card: Path  # JSON beside it
    to: str  # the route
    differences: tuple[Difference, ...]  # one per batch size
    speeds: tuple[Speed, ...]  # per batch size over eager, then over the unreduced model by the same route
    seconds: float  # that writing and loading took


def export_model(
    model: nn.Module,
    path: Path | str,
    *,
    to: str = "onnx",
    images: Tensor | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
    rounds: int = 0,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model, reduced or not, to run without vitrim; keep what was written only if it computes the same.

    to: torch-export, onnx, openvino, aoti or executorch. images: [I, C, H, W], prepared for the model, on which
    both are compared in every batch size; random ones by default, but real ones tell more. tolerance: the largest
    difference allowed in a logit. rounds: of timing against eager and against the unreduced model by the same route,
    none by default. The artefact computes in fp32 on the CPU and takes batches of any size where the route can.
    Errors: ValueError where the route cannot write the model, and its kind ExportMismatch where the artefact computes
    something else; nothing is then left, and what was there before is untouched.
    """
    model = getattr(model, "_orig_mod", model)
    path, route = Path(path), find_route(to)
    check_settings(route, path, batch_sizes, tolerance, rounds)
    found = find_stack(model)
    method = None if found is None else found.stack.method
    refusal = route.refusal(method) or route.missing()
    if refusal is not None:
        raise ValueError(f"{refusal}.")
    images_ICHW = _images(model, images, max(batch_sizes))
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".vitrim-") as folder:
        return _export(model, method, route, path, Path(folder), images_ICHW, batch_sizes, tolerance, rounds, progress)


def check_settings(route: Route, path: Path, batch_sizes: Sequence[int], tolerance: float, rounds: int) -> None:
    """ValueError for settings that make no sense, before anything takes long."""
    if path.suffix != route.suffix:
        raise ValueError(f"the route {route.name} writes {route.suffix} files, and the output is {path}.")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise ValueError(f"the output is a file in a folder that exists, not {path}.")
    if not isinstance(batch_sizes, Sequence) or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"batch sizes are a list of whole numbers of at least 1, not {batch_sizes!r}.")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance is at least 0, not {tolerance:g}.")
    if rounds < 0:
        raise ValueError(f"the number of rounds must be at least 0, not {rounds}.")


def _export(
    model: nn.Module,
    method: Method | None,
    route: Route,
    path: Path,
    folder: Path,
    images_ICHW: Tensor,
    batch_sizes: Sequence[int],
    tolerance: float,
    rounds: int,
    progress: Progress | None,
) -> ExportReport:
    plain = _placed(model)
    start, partial = time.perf_counter(), folder / path.name
    with evaluating(plain), torch.inference_mode():
        logits = Logits(plain)
        runner = _written(route, logits, images_ICHW, partial)
        seconds = time.perf_counter() - start
        differences = []
        for size in batch_sizes:
            differences.append(_compared(route, logits, runner, images_ICHW, size))
            check(differences[-1], tolerance, route.name)
        speeds: tuple[Speed, ...] = ()
        if rounds > 0:
            unreduced = None if method is None else _unreduced(route, plain, images_ICHW, folder)
            for size in batch_sizes:
                speeds += measure(logits, runner, unreduced, images_ICHW, size, rounds, progress)
    for file in route.files(partial):
        if file.exists():
            file.replace(path.with_name(file.name))
    text = card(model, method, route, images_ICHW, tolerance, differences, speeds)
    card_path(path).write_text(text, encoding="utf-8")
    return ExportReport(
        path=path,
        card=card_path(path),
        to=route.name,
        differences=tuple(differences),
        speeds=speeds,
        seconds=seconds,
    )


def _images(model: nn.Module, images: Tensor | None, num_images: int) -> Tensor:
    """At least two images [I, C, H, W] on the CPU: a trace needs two."""
    if images is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torch.randn(max(2, num_images), *input_size_of(model))
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) < max(2, num_images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images are [I, C, H, W], at least {max(2, num_images)} of them for these batch sizes, not {got}."
        )
    return images.detach().to("cpu", torch.float32)


def _placed(model: nn.Module) -> nn.Module:
    """The model itself, or a copy if its weights are not on the CPU in fp32."""
    tensors = [*model.parameters(), *model.buffers()]
    fits = all(each.device.type == "cpu" for each in tensors)
    fits = fits and all(each.dtype == torch.float32 for each in tensors if each.is_floating_point())
    return model if fits else copy.deepcopy(model).to("cpu", torch.float32)


def _written(route: Route, model: nn.Module, images_ICHW: Tensor, path: Path) -> Runner:
    """What runs the artefact; ValueError, in one line, for whatever the exporter raises."""
    try:
        with torch.inference_mode(False):  # tensors made while tracing must be ordinary ones
            route.write(model, images_ICHW[:2].clone(), path)
        return route.load(path)
    except OSError:
        raise
    except Exception as error:  # exporters raise whatever the model leads them to
        raise ValueError(f"the route {route.name} cannot write this model: {_first_line(error)}") from error


def _compared(route: Route, model: nn.Module, runner: Runner, images_ICHW: Tensor, batch_size: int) -> Difference:
    try:
        return compare(model, runner, images_ICHW, batch_size)
    except ValueError:
        raise
    except Exception as error:  # so do runtimes
        raise ValueError(
            f"what the route {route.name} wrote does not run at batch {batch_size}: {_first_line(error)}"
        ) from error


def _unreduced(route: Route, model: nn.Module, images_ICHW: Tensor, folder: Path) -> Runner:
    with restored(model):
        return _written(route, Logits(model), images_ICHW, folder / f"unreduced{route.suffix}")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # exporters wrap what happened in advice to their developers
        error = error.__cause__
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text.splitlines()[0] if type(error) is ValueError else f"{type(error).__name__}: {text.splitlines()[0]}"
