"""From a model to an artefact that is known to compute the same: write, run, compare, measure, and only then keep.

Shape letters: B batch, I images, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, restored
from ..core.method import Method
from ..core.schedule import is_whole
from ..measure.benchmark import moved
from ..measure.evaluate import input_size_of
from ..measure.forwards import evaluating
from ..measure.noise import random_images
from ..store import replace_files, writing
from ..temporary import temporary_folder
from .card import card, card_path
from .logits import Logits
from .route import Route, RouteName, Runner, find_route
from .timing import Speed, measure
from .verify import Difference, check, check_numbers, compare

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
    notes: tuple[str, ...] = ()  # what could not be done beside


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where an artefact goes, and what is asked of it before it is kept: see `export_model`."""

    route: Route
    path: Path
    batch_sizes: Sequence[int] = BATCH_SIZES
    tolerance: float = TOLERANCE
    num_apart: int = 0
    rounds: int = 0

    def check(self) -> None:
        """ValueError for settings that make no sense, before anything takes long."""
        if self.path.suffix != self.route.suffix:
            raise ValueError(
                f"the route {self.route.name} writes {self.route.suffix} files, and the output is {self.path}."
            )
        if self.path.is_dir() or not self.path.resolve().parent.is_dir():
            raise ValueError(f"the output is a file in a folder that exists, not {self.path}.")
        if (place := card_path(self.path)).is_dir():
            raise IsADirectoryError(f"the card belongs at {place}, where a folder is: move it, or choose another name.")
        sizes = self.batch_sizes
        if not isinstance(sizes, Sequence) or not sizes or not all(is_whole(size) and size >= 1 for size in sizes):
            raise ValueError(f"batch sizes are a list of whole numbers of at least 1, not {sizes!r}.")
        if not isinstance(self.tolerance, (int, float)) or not self.tolerance >= 0:
            raise ValueError(f"the tolerance is a number of at least 0, not {self.tolerance!r}.")
        for what, number in (("images that may differ", self.num_apart), ("rounds", self.rounds)):
            if not is_whole(number) or number < 0:
                raise ValueError(f"the number of {what} must be at least 0, not {number!r}.")


def export_model(
    model: nn.Module,
    path: Path | str,
    *,
    to: RouteName = "onnx",
    opset: int | None = None,
    images: Tensor | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
    num_apart: int = 0,
    rounds: int = 0,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a model, reduced or not, to run without vitrim; keep what was written only if it computes the same.

    Args:
        model: it stays as it is. The artefact computes in fp32 on the CPU, in batches of any size where the route can.
        path: of the artefact, with the route's suffix.
        to: torch-export, onnx, openvino, aoti or executorch.
        opset: of an ONNX file, 18 by default, up to 23.
        images: [I, C, H, W], prepared for the model, on which both are compared; random ones by default, but real ones
            tell more.
        batch_sizes: in which they are compared.
        tolerance: the largest difference allowed in a logit.
        num_apart: of how many images it may be larger, since scores that all but tie may fall either way.
        rounds: of timing against eager and against the unreduced model by the same route, none by default.
        progress: called with rounds done and rounds in all.

    Returns:
        What was written, how close it is to the model, and how fast.

    Raises:
        ValueError: where the route cannot write the model, and its kind ExportMismatch where the artefact computes
            something else; nothing is then left, and what was there before is untouched.
    """
    model = getattr(model, "_orig_mod", model)
    route = find_route(to) if opset is None else find_route(to).at_opset(opset)
    asked: dict[str, Any] = {
        "batch_sizes": batch_sizes,
        "tolerance": tolerance,
        "num_apart": num_apart,
        "rounds": rounds,
    }
    settings = Settings(route=route, path=Path(path), **asked)
    settings.check()
    method = None if (found := find_stack(model)) is None else found.stack.method
    if (refusal := route.refusal(method) or route.missing()) is not None:
        raise ValueError(f"{refusal}.")
    images_ICHW = _images(model, images, max(batch_sizes))
    with writing(settings.path), temporary_folder(settings.path.resolve().parent) as folder:
        return _export(model, method, settings, folder, images_ICHW, progress)


def _export(
    model: nn.Module,
    method: Method | None,
    settings: Settings,
    folder: Path,
    images_ICHW: Tensor,
    progress: Progress | None,
) -> ExportReport:
    plain, route, path = moved(model, torch.device("cpu"), torch.float32), settings.route, settings.path
    check_numbers(plain, images_ICHW)
    start, partial = time.perf_counter(), folder / path.name
    with evaluating(plain), torch.inference_mode():
        logits = Logits(plain)
        runner = _written(route, logits, images_ICHW, partial)
        seconds = time.perf_counter() - start
        differences = _verified(settings, logits, runner, images_ICHW)
        unreduced, notes = _baseline(settings, method, plain, images_ICHW, folder)
        speeds: tuple[Speed, ...] = ()
        for size in settings.batch_sizes if settings.rounds > 0 else ():
            speeds += measure(logits, runner, unreduced, images_ICHW, size, settings.rounds, progress)
    text = card(model, method, route, images_ICHW, settings.tolerance, differences, speeds, notes)
    card_path(partial).write_text(text, encoding="utf-8")
    written = [file for file in route.files(partial) if file.exists()]
    stale = {path.with_name(file.name) for file in route.files(partial)} - {path.with_name(f.name) for f in written}
    replace_files([*written, card_path(partial)], path.parent, stale)
    return ExportReport(
        path=path,
        card=card_path(path),
        to=route.name,
        differences=tuple(differences),
        speeds=speeds,
        seconds=seconds,
        notes=notes,
    )


def _verified(settings: Settings, model: nn.Module, runner: Runner, images_ICHW: Tensor) -> list[Difference]:
    """One comparison a batch size; ExportMismatch at the first that shows another model."""
    differences, first_IK = [], None
    for size in settings.batch_sizes:
        try:
            found, kept_IK = compare(model, runner, images_ICHW, size, settings.tolerance, first_IK)
        except ValueError:
            raise
        except Exception as error:  # runtimes raise whatever they meet
            raise ValueError(
                f"what the route {settings.route.name} wrote does not run at batch {size}: {_first_line(error)}"
            ) from error
        check(found, settings.tolerance, settings.num_apart, settings.route.name)
        differences.append(found)
        first_IK = kept_IK if first_IK is None else first_IK
    return differences


def _baseline(
    settings: Settings, method: Method | None, model: nn.Module, images_ICHW: Tensor, folder: Path
) -> tuple[Runner | None, tuple[str, ...]]:
    """The unreduced model by the same route, to time against; or a note why there is none."""
    if method is None or settings.rounds == 0:
        return None, ()
    route = settings.route
    try:
        with restored(model):
            runner = _written(route, Logits(model), images_ICHW, folder / f"unreduced{route.suffix}")
        for size in settings.batch_sizes:
            runner(images_ICHW[:size].contiguous())
    except Exception as error:  # the artefact is good all the same
        return None, (f"not timed against the unreduced model, which did not go through: {_first_line(error)}",)
    return runner, ()


def _images(model: nn.Module, images: Tensor | None, num_images: int) -> Tensor:
    """At least two images [I, C, H, W] on the CPU: a trace needs two."""
    if images is None:
        return random_images(max(2, num_images), input_size_of(model))
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) < max(2, num_images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images are [I, C, H, W], at least {max(2, num_images)} of them for these batch sizes, not {got}."
        )
    return images.detach().to("cpu", torch.float32)


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


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # exporters wrap what happened in advice to their developers
        error = error.__cause__
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text.splitlines()[0] if type(error) is ValueError else f"{type(error).__name__}: {text.splitlines()[0]}"
