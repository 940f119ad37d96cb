"""Export a model: write the artefact, run it, compare it with the model, time it, and keep it only if it agrees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack, restored
from ..core.method import Method
from ..core.schedule import is_whole
from ..heads import Logits
from ..measure.batches import Progress
from ..measure.benchmark import moved
from ..measure.forwards import evaluating
from ..measure.model_input import input_size_of
from ..measure.noise import random_images
from ..store import replace_files, writing
from ..temporary import temporary_folder
from .artefact_card import artefact_card, card_path
from .route import Route, RouteName, Runner, find_route
from .timing import Speed, time_artefact
from .verify import Difference, check_difference, check_numbers, compare_logits

TOLERANCE = 1e-4
BATCH_SIZES = (1, 7)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The artefact that was written, how much it differs from the model, and how fast it is."""

    path: Path  # of the artefact
    card: Path  # JSON file beside the artefact
    to: str  # the route
    differences: tuple[Difference, ...]  # one per batch size
    speeds: tuple[Speed, ...]  # per batch size against eager, then against the unreduced model by the same route
    seconds: float  # for writing and loading the artefact
    notes: tuple[str, ...] = ()  # what could not be measured


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an export: see `export_model`."""

    route: Route
    path: Path
    batch_sizes: Sequence[int] = BATCH_SIZES
    tolerance: float = TOLERANCE
    num_apart: int = 0
    rounds: int = 0

    def check(self) -> None:
        """Raise ValueError for invalid settings, before anything takes long."""
        if self.path.suffix != self.route.suffix:
            raise ValueError(
                f"the route {self.route.name} writes {self.route.suffix} files: the output cannot be {self.path}."
            )
        if self.path.is_dir() or not self.path.resolve().parent.is_dir():
            raise ValueError(f"the output must be a file in an existing folder, not {self.path}.")
        if (card := card_path(self.path)).is_dir():
            raise IsADirectoryError(f"the card goes to {card}, which is a folder: move it, or choose another output.")
        sizes = self.batch_sizes
        if not isinstance(sizes, Sequence) or not sizes or not all(is_whole(size) and size >= 1 for size in sizes):
            raise ValueError(f"batch_sizes must be a list of whole numbers of at least 1, not {sizes!r}.")
        if not isinstance(self.tolerance, (int, float)) or not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number of at least 0, not {self.tolerance!r}.")
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
    """Export a model, reduced or not, to a file that runs without vitrim, kept only if it agrees with the model.

    Args:
        model: The model. It is not changed. The artefact runs in fp32 on the CPU, at any batch size if the route
            allows it.
        path: The file to write, with the route's suffix.
        to: torch-export, onnx, openvino, aoti or executorch.
        opset: Of an ONNX file, from 18, the default, to 23.
        images: Prepared images [I, C, H, W] to compare both on. The default is random images; real ones are a better
            test.
        batch_sizes: The batch sizes to compare at.
        tolerance: The largest difference allowed in a logit.
        num_apart: The number of images that may differ by more. Two nearly equal scores may be ranked either way.
        rounds: Rounds of timing against eager and against the unreduced model by the same route. The default is none.
        progress: Called with the number of rounds done and the total.

    Returns:
        The artefact, its differences from the model, and its speed.

    Raises:
        ValueError: If the route cannot write the model. If the artefact computes something else: ExportMismatch, a
            subclass. No file is then written, and an existing one is not changed.
    """
    model = getattr(model, "_orig_mod", model)
    route = find_route(to) if opset is None else find_route(to).at_opset(opset)
    settings = Settings(
        route=route,
        path=Path(path),
        batch_sizes=batch_sizes,
        tolerance=tolerance,
        num_apart=num_apart,
        rounds=rounds,
    )
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
        runner = write_and_load(route, logits, images_ICHW, partial)
        seconds = time.perf_counter() - start
        differences = _verified(settings, logits, runner, images_ICHW)
        unreduced, notes = _baseline(settings, method, plain, images_ICHW, folder)
        speeds: tuple[Speed, ...] = ()
        for size in settings.batch_sizes if settings.rounds > 0 else ():
            speeds += time_artefact(logits, runner, unreduced, images_ICHW, size, settings.rounds, progress)
    text = artefact_card(model, method, route, images_ICHW, settings.tolerance, differences, speeds, notes)
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
    """Compare at each batch size; ExportMismatch at the first that differs too much."""
    differences, first_IK = [], None
    for size in settings.batch_sizes:
        try:
            found, kept_IK = compare_logits(model, runner, images_ICHW, size, settings.tolerance, first_IK)
        except ValueError:
            raise
        except Exception as error:  # runtimes have their own error classes
            raise ValueError(
                f"the artefact of the route {settings.route.name} does not run at batch {size}: {_first_line(error)}"
            ) from error
        check_difference(found, settings.tolerance, settings.num_apart, settings.route.name)
        differences.append(found)
        first_IK = kept_IK if first_IK is None else first_IK
    return differences


def _baseline(
    settings: Settings, method: Method | None, model: nn.Module, images_ICHW: Tensor, folder: Path
) -> tuple[Runner | None, tuple[str, ...]]:
    """Return the unreduced model by the same route, to time against; or a note on why it could not be written."""
    if method is None or settings.rounds == 0:
        return None, ()
    route = settings.route
    try:
        with restored(model):
            runner = write_and_load(route, Logits(model), images_ICHW, folder / f"unreduced{route.suffix}")
        for size in settings.batch_sizes:
            runner(images_ICHW[:size].contiguous())
    except Exception as error:  # the artefact itself is fine
        return None, (f"not timed against the unreduced model, which could not be exported: {_first_line(error)}",)
    return runner, ()


def _images(model: nn.Module, images: Tensor | None, num_images: int) -> Tensor:
    """Return at least two images [I, C, H, W] on the CPU, since a trace needs two."""
    if images is None:
        return random_images(max(2, num_images), input_size_of(model))
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) < max(2, num_images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images must be [I, C, H, W] with at least {max(2, num_images)} images for these batch sizes, not {got}."
        )
    return images.detach().to("cpu", torch.float32)


def write_and_load(route: Route, model: nn.Module, images_ICHW: Tensor, path: Path) -> Runner:
    """Write the artefact and return its runner; ValueError, in one line, if the exporter fails."""
    try:
        with torch.inference_mode(False):  # tracing must not create inference tensors
            route.write(model, images_ICHW[:2].clone(), path)
        return route.load(path)
    except OSError:
        raise
    except Exception as error:  # exporters raise all kinds of errors
        raise ValueError(f"the route {route.name} cannot write this model: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # exporters wrap the cause in advice for their developers
        error = error.__cause__
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return text.splitlines()[0] if type(error) is ValueError else f"{type(error).__name__}: {text.splitlines()[0]}"
