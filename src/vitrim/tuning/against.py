"""The tuned model beside the methods and rivals of equal cost, on images that the search has not seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..api import reduce_tokens
from ..backbones.reader import read_backbone
from ..core.spec import ViTSpec
from ..measure.budget.formula import block_macs
from ..measure.budget.targets import method_for_macs
from ..measure.folder import load_images
from ..measure.macs import count_macs
from ..measure.model_input import input_size_of
from ..measure.paired import Z95, PairedLoss
from ..measure.turns import Turns
from ..rivals import Rebuild, Rival, patch_size
from .bench import Bench
from .outcome import ANSWERS, METHOD, RIVAL, SIMILARITY, TUNED, UNREDUCED, Row
from .sample import BATCH, answer
from .search import Candidate

METHODS = ("tome", "evit", "token_mergence", "diffrate")


@dataclass(frozen=True)
class Contender:
    """One model in the table."""

    name: str
    kind: str
    model: nn.Module
    x_ICHW: Tensor | None = None  # the held-out images at another size


@dataclass(frozen=True)
class Field:
    """What all contenders share."""

    bench: Bench
    folder: Path
    limit: int | None
    skip_bad: bool = False
    rebuild: Rebuild | None = None

    @property
    def model(self) -> nn.Module:
        """The unreduced one."""
        return self.bench.unreduced

    def contenders(self, best: Candidate) -> Iterator[Contender]:
        """The unreduced and the tuned model, then methods and rivals that cost no more multiply-adds."""
        tuned, gmacs = best.method, self.bench.gmacs(best.method)
        yield Contender("unreduced", UNREDUCED, self.model)
        yield Contender(f"{tuned.name}, tuned", TUNED, reduce_tokens(copy.deepcopy(self.model), tuned))
        yield from self._methods(gmacs)
        yield from self._rivals(gmacs)

    def _methods(self, gmacs: float) -> Iterator[Contender]:
        for name in METHODS:
            try:
                method = method_for_macs(self.model, name, gmacs)
                model = reduce_tokens(copy.deepcopy(self.model), method)
            except ValueError:  # unknown here, or it cannot reach so few
                continue
            assert method.amount is not None
            value = getattr(method, method.amount.setting)
            amount = method.amount.words.format(value) if isinstance(value, (int, float)) else "evenly"
            yield Contender(f"{name} {amount}", METHOD, model)

    def _rivals(self, gmacs: float) -> Iterator[Contender]:
        """What skips unread work, the deepest model within the budget, and smaller images."""
        for rival in (Rival("unread"), *self._depths(gmacs), *self._sizes(gmacs)):
            try:
                model = rival.make(self.model, self.rebuild)
            except ValueError:  # the model takes one size only, or its head reads the patches
                continue
            yield Contender(rival.key[1], RIVAL, model, self._images(model) if rival.kind == "resolution" else None)

    def _depths(self, gmacs: float) -> Iterator[Rival]:
        """The deepest model within the budget."""
        spec, macs = read_backbone(self.model).spec, count_macs(self.model)
        depth = spec.depth - math.ceil((macs - 1e9 * gmacs) * spec.depth / block_macs(spec, None))
        if 0 < depth < spec.depth and not spec.first_reducible_layer:
            yield Rival("depth", depth)

    def _sizes(self, gmacs: float) -> Iterator[Rival]:
        """The largest smaller image within the budget, and the next larger one."""
        (_, height, width), spec = input_size_of(self.model), read_backbone(self.model).spec
        step, rest = patch_size(self.model), count_macs(self.model) - block_macs(spec, None)
        if height != width or spec.first_reducible_layer or (height // step) ** 2 != spec.num_patches:
            return
        sizes = range(height - step, 2 * step, -step)
        fits = next((size for size in sizes if _macs_at(size // step, spec, rest) <= 1e9 * gmacs), None)
        if fits is not None:
            yield from (Rival("resolution", size) for size in (fits, fits + step) if size < height)

    def _images(self, model: nn.Module) -> Tensor:
        """The held-out images, prepared for another model."""
        batches = load_images(model, self.folder, limit=self.limit, batch_size=BATCH, skip_bad=self.skip_bad)
        return torch.cat([batch.x_BCHW for batch in batches])[self.bench.sample.held_out]

    def rows(self, contenders: Sequence[Contender], progress: Callable[[str], None]) -> list[Row]:
        """Every contender, measured."""
        progress("speed in turns")
        names = ", ".join(each.name for each in contenders)
        turns = self.bench.turns(names, [each.model for each in contenders[1:]])
        found = []
        for i, each in enumerate(contenders):
            progress(each.name)
            found.append(self._row(each, turns, str(i)))
        return found

    def _row(self, each: Contender, turns: Turns, key: str) -> Row:
        held = self.bench.sample.x_ICHW[self.bench.sample.held_out] if each.x_ICHW is None else each.x_ICHW
        name = f"answers of {each.name} to the images held out"
        found_IK = self.bench.memory.tensor(
            name, lambda: answer(each.model, held, self.bench.answers, self.bench.device)
        )
        divergence_I = self.bench.answers.divergence(self.bench.wanted_held_out, found_IK)
        lost, interval, paired = self._loss(found_IK, divergence_I)
        return Row(
            name=each.name,
            kind=each.kind,
            gmacs=count_macs(each.model, tuple(held.shape[1:])) / 1e9,  # type: ignore[arg-type]
            speedup=turns.ratio(key, "0"),
            latency_ms=1e3 * turns.median(key),
            divergence=float(divergence_I.mean()),
            lost=lost,
            interval=interval,
            paired=paired,
        )

    def _loss(self, found_IK: Tensor, divergence_I: Tensor) -> tuple[float, tuple[float, float], PairedLoss | None]:
        """What is lost, with its interval, of what `Bench.loss` says."""
        if self.bench.loss == SIMILARITY:
            mean, half = float(divergence_I.mean()), Z95 * float(divergence_I.std()) / math.sqrt(len(divergence_I))
            return 100 * mean, (100 * (mean - half), 100 * (mean + half)), None
        before_I, after_I = self.bench.wanted_held_out.argmax(dim=1), found_IK.argmax(dim=1)
        right_I = before_I if self.bench.loss == ANSWERS else self.bench.sample.labels_I[self.bench.sample.held_out]
        paired = PairedLoss.of(before_I == right_I, after_I == right_I)
        return paired.points, paired.interval, paired


def _macs_at(patches_of_side: int, spec: ViTSpec, rest: int) -> float:
    """Multiply-adds for a square image of so many patches a side, about."""
    return rest * patches_of_side**2 / spec.num_patches + block_macs(spec, None, patches_of_side**2)
