"""What a comparison draws: the Pareto front, and points that tell their numbers and lead to their rows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rows import make_row
from vitrim.compare.row import sampling_error
from vitrim.compare.view import AXES, figures, legend, pareto_front

UNREDUCED = make_row("unreduced")
ROWS = [
    UNREDUCED,
    make_row("evit", "keep 0.7", top1=79.0, drop=1.0, gmacs=0.7, speedup=1.4),
    make_row("evit", "keep 0.5", top1=76.0, drop=4.0, gmacs=0.5, speedup=1.9),
    make_row("tome", "keep 0.7", top1=78.0, drop=2.0, gmacs=0.7, speedup=1.3),
]

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@given(POINTS)
@pytest.mark.parametrize("cost", AXES)
def test_the_front_holds_what_no_row_beats(cost, points):
    rows = [make_row("m", str(i), top1=p[0], gmacs=p[1], speedup=p[2]) for i, p in enumerate(points)]

    def beats(a, b):
        cheaper = a.gmacs - b.gmacs if cost == "gmacs" else b.speedup - a.speedup
        return a.top1 >= b.top1 and cheaper <= 0 and (a.top1 > b.top1 or cheaper < 0)

    best = {(row.top1, getattr(row, cost)) for row in rows if not any(beats(other, row) for other in rows)}
    front = pareto_front(rows, cost)
    assert {(row.top1, getattr(row, cost)) for row in front} == best
    assert len(front) == len(best)


def chart(rows, cost="gmacs"):
    return figures(rows)[list(AXES).index(cost)].svg


@pytest.mark.parametrize("cost", AXES)
def test_every_point_tells_its_numbers_and_leads_to_its_row(cost):
    svg = chart(ROWS, cost)
    told = [title.text for title in ElementTree.fromstring(svg).iter() if title.tag.endswith("title")]
    assert len(told) == len(ROWS)
    (own,) = [each for each in told if each.startswith("evit keep 0.7: top-1 79.00 %, 1.0 points lost (")]
    assert "0.7 GMACs, 1.40x" in own
    for i in range(len(ROWS)):
        assert f'xlink:href="#row-{i}"' in svg and f'data-row="row-{i}"' in svg


@pytest.mark.parametrize("top1", [100.0, 0.0])
def test_no_axis_goes_beyond_what_an_accuracy_can_be(top1):
    rows = [make_row("unreduced", top1=top1), make_row("evit", "keep 0.7", top1=abs(top1 - 4), drop=4.0, gmacs=0.7)]
    numbers = [float(text) for text in re.findall(r">(-?[\d.]+)</text>", chart(rows).replace("\u2212", "-"))]
    assert numbers and all(0 <= number <= 100 for number in numbers)


def test_names_are_escaped():
    svg = chart([UNREDUCED, make_row("a<b>&c", "keep 0.7", gmacs=0.7)])
    assert "a&lt;b&gt;&amp;c keep 0.7" in svg
    ElementTree.fromstring(svg)


def test_lines_and_text_take_the_pages_colours():
    svg = chart(ROWS, "speedup")
    assert "currentColor" in svg and "var(--m0)" in svg
    assert "#0102" not in svg
    assert "DejaVu" not in svg


def test_the_unreduced_model_alone_can_be_drawn():
    ElementTree.fromstring(chart([UNREDUCED]))


def test_the_same_rows_give_the_same_chart():
    assert chart(ROWS) == chart(ROWS)


def test_the_legend_names_each_method_once():
    rival = make_row("smaller input", "176 px", rival="resolution")
    assert [name for name, *_ in legend([*ROWS, rival])] == ["unreduced", "evit", "tome", "smaller input 176 px"]


def test_sampling_error_of_a_share():
    assert sampling_error(make_row("unreduced", top1=50.0, num_images=400)) == pytest.approx(4.9, abs=0.03)
