"""`vitrim.tune`: from a goal to the setting that meets it and changes the answers least."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones.reader import find_stack
from ..compare.environment import versions
from ..compare.identity import images_hash, weights_hash
from ..facts import library_of
from ..heads import check_module
from ..kinds import is_number, is_whole
from ..measure.benchmark import Dtype
from ..measure.folder import load_images
from ..measure.forwards import check_device
from ..measure.model_input import input_size_of
from ..rivals import Rebuild
from ..saving.describe import describe
from .against import Field
from .bench import Limits, Progress, prepare
from .memory import Memory
from .notes import instead_of_accuracy, notes
from .outcome import Tuned
from .output import Output
from .sample import BATCH, load_sample
from .target import Target, target_of
from .timing import EAGER, Way

COSTS = ("time", "macs")


def tune(
    model: nn.Module,
    images: str | Path,
    *,
    speedup: float | None = None,
    latency_ms: float | None = None,
    gmacs: float | None = None,
    max_loss: float | None = None,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    dtype: Dtype = "fp32",
    compile: bool = False,
    route: str = EAGER,
    limit: int | None = 1024,
    num_search: int | None = None,
    minutes: float = 10.0,
    tries: int = 200,
    seed: int = 0,
    by: str = "time",
    skip_bad: bool = False,
    rebuild: Rebuild | None = None,
    name: str | None = None,
    output: str | Path | None = None,
    replaces: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Find the setting that meets a goal and changes the model's answers least. No labels, no training.

    Half of the images are searched with, the other half gives the figures. Candidates are compared by how far their
    answers are from the unreduced model's, and cost what was measured here, in the way in which the model will run.

    Args:
        model: not reduced; it stays as it is.
        images: a folder of images like those that the model will see. Labels are used for the report alone.
        speedup: goal: times the unreduced model's speed.
        latency_ms: goal: milliseconds of one batch.
        gmacs: goal: 1e9 multiply-adds of one image.
        max_loss: goal: the fastest that loses at most so many points of accuracy; of answers, without labels.
        batch_size: images in a batch of the forwards that are timed.
        device: where the model runs.
        dtype: of weights and images: fp32, bf16 or fp16. It holds for answers and times.
        compile: whether the model will run under torch.compile; times are then those of compiled models.
        route: what will run it: "eager", or a format of `export_model`, such as "onnx" or "openvino".
        limit: at most so many images, evenly spread over classes.
        num_search: images to search with; None for half of them. The others are held out.
        minutes: when the search ends at the latest; measuring its result takes some more.
        tries: changes to the schedule that are tried.
        seed: of the split of the images and of the search.
        by: what cost means for a speedup or a loss: "time" or "macs".
        skip_bad: leave out images that cannot be read.
        rebuild: makes the model for another image size, for the rival of a smaller input.
        name: of the model, for reports.
        output: a folder for the report, the values and the reduced model. The same call goes on there after a kill.
        replaces: remove another run found in that folder.
        progress: called with what is being done.

    Returns:
        The setting, and the rows that it was compared with.

    Raises:
        ValueError: for no goal or several, one that cannot be met, too few images, or a folder of another run.
    """
    goal = target_of(speedup=speedup, latency_ms=latency_ms, gmacs=gmacs, max_loss=max_loss)
    settings = Settings(Path(images), limit, num_search, minutes, tries, seed, by, skip_bad, rebuild)
    way = Way(check_device(device), batch_size, dtype, compile, route)
    return _found(model, goal, settings, way, name, None if output is None else Path(output), replaces, progress)


@dataclass(frozen=True)
class Settings:
    """What `tune` is asked, beside its goal."""

    images: Path
    limit: int | None
    num_search: int | None
    minutes: float
    tries: int
    seed: int
    by: str
    skip_bad: bool
    rebuild: Rebuild | None

    def __post_init__(self) -> None:
        minutes = is_number(self.minutes) and self.minutes > 0
        if not (is_whole(self.tries, 0) and minutes):
            raise ValueError(
                f"tune needs tries of at least 0 and minutes above 0, not tries={self.tries!r} and "
                f"minutes={self.minutes!r}."
            )
        if self.num_search is not None and not is_whole(self.num_search, 2):
            raise ValueError(f"num_search is a whole number of images, at least 2, not {self.num_search!r}.")
        if self.by not in COSTS:
            raise ValueError(f"by is one of {', '.join(COSTS)}, not {self.by!r}.")


def _found(
    given: nn.Module,
    goal: Target,
    settings: Settings,
    way: Way,
    name: str | None,
    output: Path | None,
    replaces: bool,
    progress: Progress | None,
) -> Tuned:
    """The answer of a new search, of one that goes on, or of a finished one."""
    check_module(given)
    if find_stack(given) is not None:
        raise ValueError("tune begins with a model that carries all its tokens: call restore(model) first.")
    say, model = progress or _silent, way.moved(given)
    if output is None:
        return _tuned(model, goal, settings, way, name, Memory(), say)
    describe(given, library_of(given) or "timm")  # what cannot be saved is refused before the search
    with Output(output, replaces).opened(_identity(model, goal, settings, way, name)) as place:
        if place.finished is not None:
            say(f"{output} has the finished result of these arguments")
            return place.finished
        found = _tuned(model, goal, settings, way, name, place.memory, say)
        place.write(found, given)
        return found


def _identity(model: nn.Module, goal: Target, settings: Settings, way: Way, name: str | None) -> dict[str, Any]:
    """What tells a run from others, in the order in which differences are said."""
    images = load_images(
        model, settings.images, limit=settings.limit, batch_size=BATCH, skip_bad=settings.skip_bad
    ).images
    own = {each.name.replace("_", " "): getattr(settings, each.name) for each in fields(settings)}
    own = {name: value for name, value in own.items() if name not in ("images", "rebuild")}
    versions_here = {name: version for name, version in versions().items() if name in ("vitrim", "torch", "timm")}
    return {
        "goal": str(goal),
        "way to run": str(way),
        "batch size": way.batch_size,
        "model": name or type(model).__name__,
        "weights": weights_hash(model),
        "image size": "x".join(map(str, input_size_of(model)[1:])),
        "number of images": len(images),
        "images": images_hash(images),
        "threads": torch.get_num_threads(),
        **own,
        **versions_here,
    }


def _tuned(
    model: nn.Module, goal: Target, settings: Settings, way: Way, name: str | None, memory: Memory, say: Progress
) -> Tuned:
    say("images")
    chosen = settings.images, settings.limit, settings.seed, settings.num_search
    sample = load_sample(model, *chosen, skip_bad=settings.skip_bad)
    bench = prepare(model, sample, way, goal.cost(settings.by), memory, say)
    for note in instead_of_accuracy(goal, bench.loss):
        say(note)
    best, tried = bench.search(goal, Limits(settings.tries, 60 * settings.minutes, settings.seed), say)
    field = Field(bench, settings.images, settings.limit, settings.skip_bad, settings.rebuild)
    found = Tuned(
        model=name or bench.spec.name,
        method=best.family.method,
        settings=best.settings,
        target=(goal.name, goal.value),
        unit=bench.cost.unit,
        unreduced_cost=bench.cost.unreduced,
        cost=best.cost,
        rows=field.rows(list(field.contenders(best)), say),
        schedule=best.schedule,
        num_searched=len(sample.searched),
        num_held_out=len(sample.held_out),
        num_tried=len(tried),
        tried=[each.content() for each in tried],
        seconds=memory.seconds,
        loss=bench.loss,
        divergence_unit=bench.answers.unit,
        batch_size=way.batch_size,
        seed=settings.seed,
        block_ms=bench.block_ms(best),
        way=str(way),
    )
    return replace(found, notes=tuple(notes(found, goal, bench.cost)))


def _silent(_: str) -> None:
    """Say nothing."""
