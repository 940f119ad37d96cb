"""Models are timed in turns and not changed. Memory is what their tensors take."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

import vitrim
from vitrim.measure import benchmark as module
from vitrim.measure import turns
from vitrim.measure.benchmark import benchmark, clone_sharing_weights
from vitrim.measure.peak_memory import PeakMemory

SMALL = (3, 8, 8)


class Sleeps(nn.Module):
    """Takes a known time and writes its name down."""

    def __init__(self, name, seconds, calls):
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls

    def forward(self, x):
        self.calls.append((self.name, tuple(x.shape), x.dtype, torch.is_inference_mode_enabled(), self.training))
        time.sleep(self.seconds)
        return x


def test_a_model_half_as_fast_has_half_the_speed():
    slow, fast = Sleeps("slow", 0.04, []), Sleeps("fast", 0.02, [])
    found = benchmark({"slow": slow, "fast": fast}, SMALL, batch_size=4, rounds=5, warmup=0)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].speedup == found["slow"].speedup.low == found["slow"].speedup.high == 1.0
    assert found["fast"].speedup == pytest.approx(2, rel=0.3)
    assert found["fast"].speedup.low <= found["fast"].speedup <= found["fast"].speedup.high
    assert found["fast"].latency_ms == pytest.approx(20, rel=0.4)
    assert found["fast"].images_per_s == pytest.approx(4 / (found["fast"].latency_ms / 1e3))
    assert found["fast"].rounds == 5


def test_another_baseline_can_be_named():
    models = {"slow": Sleeps("slow", 0.04, []), "fast": Sleeps("fast", 0.02, [])}
    found = benchmark(models, SMALL, rounds=3, warmup=0, baseline="fast")
    assert found["fast"].speedup == 1.0
    assert found["slow"].speedup == pytest.approx(0.5, rel=0.3)


def test_models_take_turns_in_rotating_order():
    calls = []
    models = {name: Sleeps(name, 0.021, calls) for name in "abc"}
    progress = []
    benchmark(models, SMALL, rounds=6, warmup=1, progress=lambda *args: progress.append(args))
    names = "".join(name for name, *_ in calls[-18:])
    assert names == "abc" + "bca" + "cab" + "cba" + "acb" + "bac", "everybody runs after everybody else"
    assert progress == [(round, 6) for round in range(1, 7)]


def test_models_run_in_eval_and_inference_mode_and_return_to_their_own():
    calls = []
    model = Sleeps("a", 0.021, calls).train()
    benchmark({"a": model}, SMALL, batch_size=5, rounds=2)
    assert set(calls) == {("a", (5, *SMALL), torch.float32, True, False)}
    assert model.training


def test_short_calls_are_repeated_until_a_sample_lasts(monkeypatch):
    calls = []
    benchmark({"a": Sleeps("a", 0.002, calls)}, SMALL, rounds=1, warmup=1)
    few = len(calls)
    monkeypatch.setattr(turns, "MIN_SECONDS", 0.1)
    calls.clear()
    benchmark({"a": Sleeps("a", 0.002, calls)}, SMALL, rounds=1, warmup=1)
    assert 3 < few < len(calls)


def test_latency_is_that_of_one_batch_however_many_fill_a_sample():
    found = benchmark({"a": Sleeps("a", 0.005, [])}, SMALL, batch_size=1, rounds=5)["a"]
    assert found.latency_ms == pytest.approx(5, rel=0.4)


def test_another_precision_is_measured_on_a_copy(tiny_vit):
    model = tiny_vit()
    reduced = vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5)
    before = copy.deepcopy(reduced.state_dict())
    found = benchmark({"all": model, "evit": reduced}, (3, 32, 32), batch_size=2, rounds=2, warmup=1, dtype="bf16")
    assert all(value.dtype == torch.float32 for value in (*model.parameters(), *reduced.parameters()))
    assert all(value.equal(before[key]) for key, value in reduced.state_dict().items())
    in_full = benchmark({"all": model}, (3, 32, 32), batch_size=2, rounds=1, warmup=1)
    assert found["all"].peak_memory_mb == pytest.approx(in_full["all"].peak_memory_mb / 2, rel=0.01)


def test_twins_share_their_weights_in_another_precision_too(tiny_vit):
    model = tiny_vit()
    reduced = vitrim.reduce_tokens(clone_sharing_weights(model), "evit", keep_rate=0.5)
    pairs = list(zip(model.parameters(), reduced.parameters(), strict=True))
    assert all(a is b for a, b in pairs)
    copies = {}
    moved = [module.moved(each, torch.device("cpu"), torch.bfloat16, copies) for each in (model, reduced)]
    for a, b in zip(*(each.parameters() for each in moved), strict=True):
        assert a.dtype == torch.bfloat16
        assert a.data_ptr() == b.data_ptr()
    assert all(a.dtype == torch.float32 for a, _ in pairs)


class Allocates(nn.Module):
    """One weight of 1 MiB, then two tensors of 3 and 2 MiB that live together, then one of 4 MiB alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**18))

    def forward(self, x):
        first = torch.zeros(3 * 2**18)
        second = torch.zeros(2 * 2**18)
        view = first[10:]
        del first
        view.add_(1)
        del second, view
        return torch.zeros(4 * 2**18)


def test_memory_is_the_most_that_is_alive_at_once():
    found = benchmark({"a": Allocates()}, (1, 512, 512), batch_size=1, rounds=1, warmup=0)["a"]
    assert found.peak_memory_mb == pytest.approx(1 + 1 + 5, abs=1e-3)  # weight, input, the two together


def test_memory_equals_what_the_profiler_sees_being_allocated(tiny_vit):
    model, x = tiny_vit(), torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        model(x)
        with PeakMemory([x, *model.parameters()]) as memory:
            model(x)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            model(x)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert memory.peak_bytes == peak + sum(tensor.nbytes for tensor in (x, *model.parameters()))


def test_a_reduced_model_needs_no_more_memory_than_its_own_whole(tiny_vit):
    models = {"all": tiny_vit(), "evit": vitrim.reduce_tokens(tiny_vit(), "evit", layers=(0,), keep_rate=0.3)}
    found = benchmark(models, (3, 32, 32), batch_size=4, rounds=1, warmup=1)
    assert found["evit"].peak_memory_mb < found["all"].peak_memory_mb


def test_a_model_already_reduced_is_faster_than_the_whole(tiny_vit):
    big = {"img_size": 64, "embed_dim": 96}
    models = {"all": tiny_vit(**big), "evit": vitrim.reduce_tokens(tiny_vit(**big), "evit", layers=(0,), keep_rate=0.2)}
    assert benchmark(models, (3, 64, 64), batch_size=8, rounds=7)["evit"].speedup > 1.2


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"dtype": "int8"}, "dtype.*fp32, bf16, fp16.*'int8'"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"baseline": "b"}, "baseline 'b'.* a"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_errors(settings, match):
    with pytest.raises(ValueError, match=match) as error:
        benchmark({"a": nn.Identity()}, SMALL, **settings)
    assert "\n" not in str(error.value)


def test_no_model_at_all_is_an_error():
    with pytest.raises(ValueError, match="one model"):
        benchmark({})


@pytest.mark.slow
def test_compiled_models_are_timed_too(tiny_vit):
    models = {"all": tiny_vit(), "evit": vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5)}
    found = benchmark(models, (3, 32, 32), batch_size=2, rounds=3, compile=True)
    assert found["evit"].speedup > 0
    assert found["evit"].peak_memory_mb > 0


@pytest.mark.slow
def test_however_many_models_are_compiled_none_runs_uncompiled(tiny_vit):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"]
    for keep_rate in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):  # torch keeps 8 graphs of a forward
        models = {"evit": vitrim.reduce_tokens(tiny_vit(depth=4), "evit", keep_rate=keep_rate)}
        benchmark(models, (3, 32, 32), batch_size=2, rounds=1, warmup=1, compile=True)
    assert counters["stats"]["unique_graphs"] == before + 9


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1.5}, {"batch_size": "a"}, {"rounds": True}, {"rounds": float("nan")}, {"warmup": -1}]
)
def test_numbers_of_another_kind_are_refused(changes):
    with pytest.raises(ValueError, match="whole number"):
        benchmark({"a": nn.Identity()}, SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"models": [nn.Identity()]}, "name"),
        ({"images_ICHW": "x"}, "one image"),
        ({"input_size": (3, 8)}, "size.*height and width"),
    ],
)
def test_arguments_of_another_kind_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        benchmark(**{"models": {"a": nn.Identity()}, "input_size": SMALL, "batch_size": 1} | changes)


def test_models_for_images_of_different_sizes_take_turns():
    sizes = {"small": (3, 16, 16), "large": (3, 24, 24)}
    seen = {name: [] for name in sizes}

    class Keeps(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x_BCHW):
            seen[self.name].append(tuple(x_BCHW.shape))

    benchmark({name: Keeps(name) for name in sizes}, sizes, batch_size=2, rounds=1, warmup=0)
    assert {name: set(each) for name, each in seen.items()} == {name: {(2, *size)} for name, size in sizes.items()}
    with pytest.raises(ValueError, match="no size for large"):
        benchmark({name: Keeps(name) for name in sizes}, {"small": (3, 16, 16)}, batch_size=2, rounds=1)
