"""The keep rate in every iteration is that of EViT's official code."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from vitrim.train.warmup import keep_rate_at, keep_rates_at

TABLES = Path(__file__).resolve().parents[1] / "data" / "schedules" / "evit_keep_rate_schedule.safetensors"


def test_all_five_settings_agree_with_the_official_schedule():
    with safe_open(TABLES, "pt") as file:
        cases = json.loads(file.metadata()["settings"])["cases"]
        tables = {case["name"]: file.get_tensor(f"output.{case['name']}").tolist() for case in cases}
    assert len(tables) == 5
    rates = set()
    for case in cases:
        for _, _, iteration, rate in tables[case["name"]]:
            mine = keep_rate_at(
                int(iteration),
                case["iterations_per_epoch"],
                case["base_keep_rate"],
                case["start_epoch"],
                case["shrink_epochs"],
            )
            assert mine == pytest.approx(rate, abs=1e-12)
            rates.add(rate)
    assert len(rates) > 50  # the curve itself is in the tables, not only its ends


def test_each_layer_goes_down_to_its_own_rate():
    assert keep_rates_at(0, 10, (0.7, 0.5), 1, 2) == (1.0, 1.0)
    assert keep_rates_at(20, 10, (0.7, 0.5), 1, 2) == pytest.approx((0.85, 0.75))
    assert keep_rates_at(30, 10, (0.7, 0.5), 1, 2) == (0.7, 0.5)
    assert keep_rates_at(30, 10, 0.7, 1, 2) == 0.7


def test_without_a_length_the_rate_is_there_at_once():
    assert [keep_rate_at(i, 10, 0.7, 0, 0) for i in (0, 1, 99)] == [0.7] * 3
    assert [keep_rate_at(i, 10, 0.7, 1, 0) for i in (9, 10)] == [1.0, 0.7]
