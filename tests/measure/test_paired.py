"""Accuracy lost on the same images: intervals as published."""

from __future__ import annotations

import pytest
import torch

from vitrim.measure.paired import PairedLoss, wilson


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [((36, 12, 2, 0), (5.69, 34.04)), ((54, 0, 0, 0), (-6.64, 6.64)), ((2, 97, 1, 0), (87.21, 98.54))],
)
def test_the_interval_is_newcombes_tenth(counts: tuple[int, int, int, int], wanted: tuple[float, float]) -> None:
    """The first two are among the examples of his paper (Statistics in Medicine 17, 1998)."""
    assert PairedLoss(*counts).interval == pytest.approx(wanted, abs=0.005)


def test_images_lost_and_won_are_counted_apart() -> None:
    before = torch.tensor([True, True, True, False, False])
    after = torch.tensor([True, False, False, True, False])
    loss = PairedLoss.of(before, after)
    assert (loss.both, loss.lost, loss.won, loss.neither) == (1, 2, 1, 1)
    assert loss.points == pytest.approx(20)


def test_wilson_stays_within_0_and_1() -> None:
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
    assert wilson(1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-4)


def test_a_promise_of_half_a_point_takes_thousands_of_images_where_two_in_a_hundred_change() -> None:
    assert PairedLoss(90, 1, 1, 8).images_for(0.5) == pytest.approx(3073, abs=1)
