"""Whether a schedule that is tuned for measured time loses less than one tuned for multiply-adds and as fast."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

import vitrim
from vitrim.measure.paired import PairedLoss
from vitrim.tuning.bench import Bench, Limits, in_macs, prepare
from vitrim.tuning.memory import Memory
from vitrim.tuning.sample import answer, load_sample
from vitrim.tuning.search import Candidate
from vitrim.tuning.target import Target
from vitrim.tuning.timing import CPU, Way

from .experiment import Cell, Experiment

ABOUT = """Whether a schedule that is tuned for measured time loses less than one tuned for multiply-adds and as fast.

The same search runs twice: with measured time as cost, and with multiply-adds. The second schedule is then scaled until
it takes as long as the first. Both are timed in turns with the unreduced model, and answer images that neither search
has seen. Each search takes --minutes; the rest takes about three more.

    python -m benchmarks tuned_time --threads 2 --data imagenet/val --checkpoint deit_tiny.safetensors --minutes 4
"""
EVEN = 0.01  # of the speed, that the two may differ by
SCALINGS = 5


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    model = vitrim.load_model(cell.model, cell.checkpoint or None).eval()
    sample = load_sample(model, Path(cell.data), cell.limit, cell.seed, cell.search)
    bench = prepare(model, sample, Way(batch_size=cell.batch), "time", Memory(), say)
    first, _ = bench.search(Target("speedup", cell.speed), limits(cell, bench), say)
    in_multiply_adds = replace(bench, costs=in_macs(model, bench.spec, bench.families))
    found = {"time": first, "macs": as_fast(in_multiply_adds, first, cell)}
    turns = bench.turns("both", [reduced(bench, each) for each in found.values()])
    answers = {by: answer(reduced(bench, each), held_out(bench), bench.answers, CPU) for by, each in found.items()}
    wanted, labels_I = bench.wanted_held_out, sample.labels_I[sample.held_out]
    divergence = {by: bench.answers.divergence(wanted, each) for by, each in answers.items()}
    for place, (by, each) in enumerate(found.items(), 1):
        more_I = divergence[by] - divergence["time"]
        pair = PairedLoss.of(wanted.argmax(1) == labels_I, answers[by].argmax(1) == labels_I)
        yield {
            "by": by,
            "family": each.family.name,
            "patches": " ".join(map(str, each.schedule)),
            "gmacs": bench.gmacs(each.method),
            "speedup": turns.ratio(str(place), "0"),
            "over_time": turns.ratio(str(place), "1"),
            "ms": 1e3 * turns.median(str(place)),
            "divergence": f"{divergence[by].mean():.5f}",
            "more_than_time": f"{more_I.mean():.5f}",
            "standard_error": f"{more_I.std() / len(more_I) ** 0.5:.5f}",
            "lost_points": pair.points,
            "interval_low": pair.interval[0],
            "interval_high": pair.interval[1],
            "num_images": pair.num_images,
        }


def as_fast(bench: Bench, first: Candidate, cell: Cell) -> Candidate:
    """What the search by multiply-adds finds, scaled until it is as fast as the other one."""
    search = bench.within(bench.cost.unreduced / cell.speed, limits(cell, bench), say, bench.families)
    best = search.run()
    for _ in range(SCALINGS):
        turns = bench.turns(f"{first.method!r} and {best.method!r}", [reduced(bench, first), reduced(bench, best)])
        faster = turns.ratio("2", "1")
        if abs(faster - 1) <= EVEN:
            break
        search.budget *= faster
        best = search.run_one(best) or best
    return best


def held_out(bench: Bench) -> Tensor:
    return bench.sample.x_ICHW[bench.sample.held_out]


def reduced(bench: Bench, found: Candidate) -> nn.Module:
    return vitrim.reduce_tokens(copy.deepcopy(bench.unreduced), found.method)


def limits(cell: Cell, bench: Bench) -> Limits:
    return Limits(cell.tries, bench.memory.seconds + 60 * cell.minutes, cell.seed)


def say(text: str) -> None:
    if "tried" not in text:
        print(text, flush=True)


EXPERIMENT = Experiment(
    about=ABOUT,
    file="tuned_time_{on}",
    axes={"model": ("deit_tiny_patch16_224",), "speed": (1.3,), "batch": (1,)},
    together={"by": ("time", "macs")},
    options={
        "data": "",
        "checkpoint": "",
        "limit": 1300,
        "search": 300,
        "tries": 120,
        "minutes": 4.0,
        "seed": 0,
    },
    measure=measure,
)
