"""How many candidates a minute a search tries, against evaluating each on the same images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.measure.batches import Batch
from vitrim.measure.evaluate import evaluate
from vitrim.tuning.answers import Answers
from vitrim.tuning.cost import Macs
from vitrim.tuning.families import Family, families
from vitrim.tuning.resume import Resumable
from vitrim.tuning.sample import BATCH, Sample, answer, answers_for, for_search, load_sample
from vitrim.tuning.search import Candidate, Search
from vitrim.tuning.shapes import Shape

from .experiment import Cell, Experiment

ABOUT = """How many candidates a minute a search tries, against evaluating each on the same images.

In turns: a whole search of --tries changes, then the accuracy of every n-th candidate that it tried, as
`vitrim evaluate` computes it, on the images of the search, decoded once for all and 32 at a time; then another seed. A
candidate of the search is a method with a schedule that was compared with others. Most are dropped after a few images,
and most begin behind blocks that others have computed; `images_each` is the mean number of images that one was tried
on, and `whole` how many were tried on all.

    python -m benchmarks tune_speed --threads 2 --data imagenet/val --checkpoint deit_tiny.safetensors
"""


@dataclass(frozen=True)
class Given:
    """What both ways begin with."""

    model: nn.Module
    sample: Sample
    answers: Answers
    wanted_IK: Tensor  # the unreduced model's answers to the images of the search


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    model = vitrim.load_model(cell.model, cell.checkpoint or None).eval()
    sample = load_sample(model, Path(cell.data), 2 * cell.images, cell.seed, cell.images)
    answers = answers_for(model, read_backbone(model).spec.num_prefix)
    wanted_IK = answer(model, sample.x_ICHW[sample.searched], answers, torch.device("cpu"))
    given = Given(model, sample, answers, wanted_IK)
    tried, evaluated = list[Candidate](), list[Candidate]()
    seconds = {"tune": 0.0, "evaluate": 0.0}
    for turn in range(cell.turns):
        began = time.perf_counter()
        found = searched(given, cell, cell.seed + turn)
        seconds["tune"] += time.perf_counter() - began
        some = found[:: math.ceil(len(found) / cell.each)]
        began = time.perf_counter()
        for each in some:
            evaluate_alone(given, each)
        seconds["evaluate"] += time.perf_counter() - began
        tried, evaluated = tried + found, evaluated + some
    images = {"tune": [len(each.divergence_I) for each in tried], "evaluate": [cell.images] * len(evaluated)}
    per_minute = {by: 60 * len(images[by]) / seconds[by] for by in images}
    for by, counts in images.items():
        yield {
            "by": by,
            "candidates": len(counts),
            "seconds": f"{seconds[by]:.1f}",
            "per_minute": f"{per_minute[by]:.1f}",
            "over_evaluate": f"{per_minute[by] / per_minute['evaluate']:.2f}",
            "images_each": f"{sum(counts) / len(counts):.1f}",
            "whole": sum(each == cell.images for each in counts),
        }


def searched(given: Given, cell: Cell, seed: int) -> list[Candidate]:
    """All that one search tries, as `vitrim.tune` searches."""
    spec, macs = read_backbone(given.model).spec, vitrim.count_macs(given.model)

    def cost(family: Family, shares: Shape) -> Macs:
        return Macs(spec, macs, lambda schedule: family.make(schedule, shares))

    reduced = vitrim.reduce_tokens(copy.deepcopy(given.model), "ward")
    batches = for_search(given.sample.x_ICHW[given.sample.searched])
    resumable, wanted = Resumable(reduced, batches, given.answers), for_search(given.wanted_IK)
    search = Search(resumable, wanted, families(spec), cost, macs / 1e9 / cell.ratio, seed=seed, tries=cell.tries)
    search.run()
    return search.tried


def evaluate_alone(given: Given, candidate: Candidate) -> None:
    """As one would without a search."""
    sample = given.sample
    parts = torch.split(sample.searched, BATCH)
    batches = [Batch(sample.x_ICHW[part], sample.labels_I[part].clamp(min=0)) for part in parts]
    evaluate(vitrim.reduce_tokens(copy.deepcopy(given.model), candidate.method), batches)


EXPERIMENT = Experiment(
    about=ABOUT,
    file="tune_speed_{on}",
    axes={"model": ("deit_tiny_patch16_224",), "images": (256,), "ratio": (1.5,)},
    together={"by": ("tune", "evaluate")},
    options={
        "data": "imagenet/val",
        "checkpoint": "",
        "tries": 120,
        "turns": 2,
        "each": 12,
        "seed": 0,
    },
    measure=measure,
)
