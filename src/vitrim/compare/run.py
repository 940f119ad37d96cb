"""Compare many configurations of one model: accuracy, multiply-adds and speed.

All checks run before the long work starts. Each finished row is saved at once, so an interrupted job continues where it
stopped. A configuration that cannot be measured is reported with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack
from ..core.method import plain_settings
from ..measure.batches import Batch, ImageBatches, image_batches
from ..measure.benchmark import Timing, benchmark
from ..measure.budget.adaptive import images_to_count_on, mean_token_counts
from ..measure.budget.formula import token_counts
from ..measure.diversity import diversity
from ..measure.evaluate import Score, evaluate
from ..measure.images import ImageDataError
from ..measure.macs import count_macs
from ..measure.model_input import input_size_of
from ..quantize import INT8, torchao_version
from ..store import locked
from ..text import shown
from ..tracing import trace
from .bench import UNREDUCED_KEY, Bench, prepare
from .environment import environment, versions
from .fitting import LONGEST, check_any
from .flips import save_flips
from .job import Job, Watcher
from .pictures import Sample, choose_samples, class_name, save_samples, save_tracks
from .predictions import Change, Predictions
from .report import write_report
from .rival_rows import batches_for, prepared_like, settings_of_rival, tokens_of
from .row import UNREDUCED, Key, Refusal, Row, name_of
from .run_folder import Run, open_run, write_run
from .stored import PICTURES

NUM_SAMPLES = 4  # images with token pictures in the report
MOST_TIMINGS = 3  # times that a speed is measured while the rounds differ too much


def compare(job: Job, watcher: Watcher | None = None) -> Run:
    """Measure all rows not measured yet. Write results.json, results.csv, report.html and pictures/."""
    watcher = watcher or Watcher()
    bench = prepare(job)
    with locked(job.output):
        run = open_run(job.output, bench.identity, environment(bench.device), job.command, replaces=job.replaces)
        run = replace(run, assumption=" ".join(filter(None, (bench.images.assumption, bench.fit.assumption))))
        run = run.refusing(*bench.fit.refused, but=bench.keys)
        write_run(job.output, run)
        watcher.begins(tuple(bench.keys), run)
        todo = [key for key in bench.keys if run.row(key) is None]
        if todo:
            run = _measure_all(bench, run, todo, watcher)
        write_report(job.output, run)
    check_any([row for row in run.rows if bench.keys.get(row.key) in bench.methods], run.refused)
    return run


def _measure_all(bench: Bench, run: Run, todo: Sequence[Key], watcher: Watcher) -> Run:
    job = bench.job
    batches = image_batches(
        bench.images,
        bench.preparation.transform,
        bench.preparation.input_size[0],
        batch_size=job.batch_size,
        skip_bad=job.skip_bad,
        progress=partial(watcher.works, todo[0], "images"),
    )
    samples = choose_samples(bench.images, bench.preparation, NUM_SAMPLES)
    for number, key in enumerate(todo, 1):
        try:
            run = _measure(bench, run, key, batches, samples, watcher)
        except ImageDataError:
            raise
        except ValueError as error:  # of this configuration alone, such as logits that are not finite
            if key == UNREDUCED_KEY:
                raise
            run = run.refusing(Refusal(*key, shown(error, LONGEST)))
        write_run(job.output, run)
        if run.rows:
            write_report(job.output, run, missing=len(todo) - number)
        row = run.row(key)
        watcher.refuses(run.refused[-1]) if row is None else watcher.finishes(row)
    return run


def _measure(
    bench: Bench, run: Run, key: Key, batches: ImageBatches, samples: Sequence[Sample], watcher: Watcher
) -> Run:
    """Measure one row and add it to the run."""
    model = bench.reduced(key)
    progress = partial(watcher.works, key, "accuracy")
    preparation = bench.preparation if bench.rival(key) is None else prepared_like(model, bench.preparation)
    if preparation is not bench.preparation:
        batches = batches_for(bench.job, preparation, batches)
    score = evaluate(model, batches, device=bench.device, amp=bench.job.amp, progress=progress)
    images_ICHW = images_to_count_on(model, batches)
    row = _row(bench, run, key, model, score, images_ICHW, watcher)
    row = replace(row, preparation=str(preparation))
    if not row.rival:
        row = replace(row, diversity=_diversity(model, next(iter(batches))))
    pictures = _pictures(bench, run, key, model, samples)
    run = replace(run, skipped_files=score.skipped, pictures=pictures)
    predictions = _predictions(bench, run, key, score)
    changes = predictions.changes(UNREDUCED, row.name)
    if changes is not None:
        row = replace(row, lost=sum(each.lost for each in changes), won=sum(not each.lost for each in changes))
        save_flips(changes, predictions, bench.images, bench.job.output / PICTURES)
    classes = _class_names(bench, changes or ())
    return replace(run, rows=_grouped((*run.rows, row)), predictions=predictions, classes={**run.classes, **classes})


def _predictions(bench: Bench, run: Run, key: Key, score: Score) -> Predictions:
    """What every row answers, with this one."""
    known = run.predictions
    if not known.files:
        read = [i for i in range(len(bench.images)) if bench.images.name(i) not in score.skipped]
        known = Predictions(tuple(map(bench.images.name, read)), tuple(bench.images.labels[i] for i in read))
    return known.adding(name_of(key), score.predicted)


def _class_names(bench: Bench, changes: Sequence[Change]) -> dict[str, str]:
    """The names of the classes that changes are of."""
    numbers = {number for each in changes for number in (each.label, each.before, each.after)}
    return {str(number): class_name(bench.images.class_names, number) for number in sorted(numbers)}


def _row(
    bench: Bench, run: Run, key: Key, model: nn.Module, score: Score, images_ICHW: Tensor | None, watcher: Watcher
) -> Row:
    """Time the model and collect its numbers, relative to the unreduced row, which comes first.

    images_ICHW: images for an input-adaptive model, whose speed, multiply-adds and tokens are means over them.
    """
    job, method, rival = bench.job, bench.resolved(key), bench.rival(key)
    sizes = job.batch_size, 1
    (at_batch, count), (at_one, count_1) = (_timed(bench, model, key, size, images_ICHW, watcher) for size in sizes)
    first, plain = run.row(UNREDUCED_KEY), bench.keys[key]
    macs = count_macs(model, images_ICHW=images_ICHW)
    used = versions() | ({} if key == plain else {"torchao": torchao_version()})
    return Row(
        *plain,
        settings=plain_settings(method) if method is not None else settings_of_rival(rival),
        top1=score.top1,
        top5=score.top5,
        drop=first.top1 - score.top1 if first else 0.0,
        gmacs=macs / 1e9,
        mac_ratio=first.gmacs * 1e9 / macs if first else 1.0,
        images_per_s=at_batch.images_per_s,
        speedup=at_batch.speedup,
        latency_1_ms=at_one.latency_ms,
        speedup_1=at_one.speedup,
        peak_memory_mb=at_batch.peak_memory_mb,
        tokens=_tokens(bench, plain, model, images_ICHW),
        num_images=score.num_images,
        skipped=len(score.skipped),
        batch=job.batch_size,
        rounds=job.rounds,
        dtype=job.dtype,
        device=str(bench.device),
        versions=", ".join(f"{name} {version}" for name, version in used.items()),
        seed=job.seed,
        precision=job.dtype if key == plain else INT8,
        labels=bench.images.labels_by,
        rival="" if rival is None else rival.kind,
        timings=max(count, count_1),
    )


def _tokens(bench: Bench, plain: Key, model: nn.Module, images_ICHW: Tensor | None) -> tuple[int, ...]:
    """Tokens after each block; means for an input-adaptive model."""
    if images_ICHW is not None:
        return mean_token_counts(model, images_ICHW)
    return tokens_of(model) if plain in bench.rivals else token_counts(bench.spec, bench.resolved(plain))


@torch.inference_mode()
def _diversity(model: nn.Module, batch: Batch) -> float | None:
    """Mean relative diversity, over one batch, of the tokens after the last reducing block. None if there is none."""
    if find_stack(model) is None or len(batch.x_BCHW) == 0:
        return None
    parameter = next(model.parameters())
    with trace(model, features=True) as traced:
        model(batch.x_BCHW.to(parameter.device, parameter.dtype))
    last = traced.layers[-1] if traced.layers else None
    if last is None or last.features_BNC is None:
        return None
    images = zip(torch.split(last.features_BNC, 1), last.num_tokens_B, strict=True)
    scores = [diversity(image_1NC[:, :num_tokens], relative=True) for image_1NC, num_tokens in images]
    return float(torch.cat(scores).mean())


def _pictures(
    bench: Bench, run: Run, key: Key, model: nn.Module, samples: Sequence[Sample]
) -> Sequence[Mapping[str, Any]]:
    """Return the pictures of the run. Add this configuration if it is the middle one of its method."""
    folder = bench.job.output / PICTURES
    folder.mkdir(exist_ok=True)
    pictures = run.pictures or save_samples(samples, folder)
    own = [each for each in bench.methods if each[0] == key[0]]
    drawn = any(track["method"] == key[0] for track in pictures[0]["tracks"]) if pictures else True
    if drawn or not own or key != own[len(own) // 2]:
        return pictures
    tracks = save_tracks(model, samples, bench.images.class_names, key, folder)
    return [{**entry, "tracks": [*entry["tracks"], track]} for entry, track in zip(pictures, tracks, strict=True)]


def _timed(
    bench: Bench, model: nn.Module, key: Key, batch_size: int, images_ICHW: Tensor | None, watcher: Watcher
) -> tuple[Timing, int]:
    """Time the model in turns with the unreduced model, again while the machine is noisy.

    Returns the calmest timing, and how many there were.
    """
    job, found = bench.job, list[Timing]()
    models = {UNREDUCED: bench.model} | ({} if key == UNREDUCED_KEY else {" ".join(key): model})
    while len(found) < MOST_TIMINGS and (not found or found[-1].speedup.noisy):
        timings = benchmark(
            models,
            {name: input_size_of(each) for name, each in models.items()},
            batch_size=batch_size,
            rounds=job.rounds,
            device=bench.device,
            dtype=job.dtype,
            compile=job.compile,
            images_ICHW=images_ICHW,
            progress=partial(watcher.works, key, f"speed at batch {batch_size}"),
        )
        found.append(list(timings.values())[-1])
    return min(found, key=lambda timing: timing.speedup.relative_range), len(found)


def _grouped(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Group the rows by method, then by setting, each in order of first appearance."""
    methods = list(dict.fromkeys(row.method for row in rows))
    settings = list(dict.fromkeys((row.method, row.setting) for row in rows))
    return tuple(sorted(rows, key=lambda row: (methods.index(row.method), settings.index((row.method, row.setting)))))
