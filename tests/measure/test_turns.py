"""Callables take turns in changing order, and a ratio has its percentiles."""

from __future__ import annotations

import copy
import json
import pickle
import statistics
import time
from functools import partial

import pytest

from vitrim.measure.benchmark import Timing
from vitrim.measure.turns import Spread, Turns, columns, order_of_turns, take_turns


def parts(spread: Spread) -> tuple[float, float, float]:
    return spread.low, spread.median, spread.high


def test_a_spread_is_its_median_and_knows_its_percentiles() -> None:
    spread = Spread.of([1.0, 4.0, 2.0, 3.0, 5.0])
    assert parts(spread) == pytest.approx((1.4, 3.0, 4.6))
    assert spread == 3.0
    assert spread > 2.9
    assert f"{spread:.2f}x ({spread.range})" == "3.00x (1.40 to 4.60)"
    assert parts(spread.times(10)) == pytest.approx((14, 30, 46))


def test_percentiles_are_those_of_the_standard_library_with_ends_included() -> None:
    ratios = [0.93, 1.7, 1.2, 1.31, 0.88, 1.02, 1.44]
    low, *_, high = statistics.quantiles(ratios, n=10, method="inclusive")
    assert parts(Spread.of(ratios)) == pytest.approx((low, statistics.median(ratios), high))
    assert parts(Spread.of([1.5])) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda spread: pickle.loads(pickle.dumps(spread))])
def test_a_copy_keeps_the_percentiles(again) -> None:
    assert parts(again(Spread(0.9, 1.0, 1.1))) == (0.9, 1.0, 1.1)


def test_a_spread_takes_three_columns_under_one_set_of_names() -> None:
    row = columns({"method": "evit", "speedup": Spread(0.9, 1.0, 1.1), "rounds": 3})
    assert row == {"method": "evit", "speedup": 1.0, "speedup_p10": 0.9, "speedup_p90": 1.1, "rounds": 3}
    assert all(type(row[name]) is float for name in ("speedup", "speedup_p10", "speedup_p90"))
    assert json.loads(json.dumps(row)) == row


def test_a_ratio_is_taken_within_each_round() -> None:
    turns = Turns({"slow": (2.0, 30.0, 4.0), "fast": (1.0, 10.0, 2.0)})
    assert parts(turns.ratio("fast", over="slow")) == pytest.approx((2.0, 2.0, 2.8))
    assert turns.ratio("slow", over="slow") == 1
    assert turns.median("slow") == 4.0


def test_everybody_runs_after_everybody_else() -> None:
    orders = ["".join(order_of_turns("abc", done)) for done in range(7)]
    assert orders == ["abc", "bca", "cab", "cba", "acb", "bac", "abc"]


def test_callables_are_warmed_up_repeated_and_waited_for() -> None:
    calls: list[str] = []
    progress: list[tuple[int, int]] = []

    def short() -> None:
        calls.append("short")
        time.sleep(0.003)

    def long() -> None:
        calls.append("long")
        time.sleep(0.021)

    turns = take_turns(
        {"short": short, "long": long},
        rounds=2,
        warmup=2,
        wait=lambda: calls.append("wait"),
        progress=lambda *told: progress.append(told),
    )
    assert calls[:4] == ["short", "short", "long", "long"]  # before anything is timed
    assert calls[4:10] == ["wait", "short", "wait", "wait", "long", "wait"]  # how many fill a sample
    assert calls[10:].count("long") == 2
    assert 4 <= calls[10:].count("short") <= 14
    assert progress == [(1, 2), (2, 2)]
    assert turns.median("short") == pytest.approx(0.003, rel=1)  # of one call, not of a sample
    assert turns.ratio("short", "long") > 2


def test_the_older_names_of_the_percentiles_say_the_new_ones() -> None:
    timing = Timing(1, 1, Spread(0.9, 1.0, 1.1), 3, 30.0)
    with pytest.warns(DeprecationWarning, match=r"speedup\.low"):
        assert timing.speedup_low == 0.9
    with pytest.warns(DeprecationWarning, match=r"speedup\.high"):
        assert timing.speedup_high == 1.1


def test_untimed_calls_come_right_before_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.measure.turns.MIN_SECONDS", 0.0)
    said: list[str] = []
    names = ("a", "b")
    calls = {name: partial(said.append, name) for name in names}
    take_turns(calls, 2, warmup=0, untimed=2, wait=lambda: said.append("|"))
    assert "".join(said).endswith("aa|a|bb|b|bb|b|aa|a|")
