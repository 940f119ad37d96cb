"""How many tokens each block keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from vitrim.core.schedule import ceil_share, check_layers, check_rates, default_layers, linear_r


@pytest.mark.parametrize("hundredths", range(5, 100, 5))
def test_a_share_is_the_exact_ceiling(hundredths: int) -> None:
    exact = Fraction(hundredths, 100)
    for count in range(1, 1001):
        assert ceil_share(hundredths / 100, count) == math.ceil(exact * count), count


def test_a_share_is_the_exact_ceiling_for_thousandths() -> None:
    for thousandths in range(1, 1001):
        for count in (1, 7, 36, 64, 100, 196, 256, 576, 1000, 1024, 4096):
            assert ceil_share(thousandths / 1000, count) == -(-thousandths * count // 1000), (thousandths, count)


def test_the_share_for_which_a_float_product_is_wrong() -> None:
    assert math.ceil(0.55 * 100) == 56
    assert ceil_share(0.55, 100) == 55


def test_thirds_are_exact_too() -> None:
    assert [ceil_share(2 / 3, count) for count in (3, 6, 9, 10, 300)] == [2, 4, 6, 7, 200]


def test_all_is_all() -> None:
    assert [ceil_share(1.0, count) for count in (1, 2, 196, 1000)] == [1, 2, 196, 1000]


def test_a_rate_above_zero_keeps_at_least_one_patch() -> None:
    assert ceil_share(1e-7, 5) == 1


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(12, (3, 6, 9)), (16, (4, 8, 12)), (24, (6, 12, 18)), (20, (5, 10, 15)), (4, (1, 2, 3)), (6, (1, 2, 3))],
)
def test_the_default_layers_are_the_papers(depth: int, layers: tuple[int, ...]) -> None:
    assert default_layers(depth) == layers


def test_the_default_layers_fit_every_depth() -> None:
    for depth in range(4, 50):
        assert check_layers(default_layers(depth), depth, "test") == default_layers(depth)


def test_a_shallow_model_has_no_default_layers() -> None:
    with pytest.raises(ValueError, match=r"at least 4 blocks.* 3.*layers"):
        default_layers(3)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((3, 12), r"layers \(3, 12\).*0 to 11"),
        ((-1, 3), r"layers \(-1, 3\).*0 to 11"),
        ((6, 3), r"increasing.*\(6, 3\)"),
        ((3, 3), r"increasing.*\(3, 3\)"),
        ((3.0, 6), r"layers .*\(3.0, 6\)"),
        (("3", "6"), r"layers .*\('3', '6'\)"),
    ],
)
def test_wrong_layers_are_refused(layers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_layers(layers, 12, "evit")


def test_layers_come_back_as_a_tuple() -> None:
    assert check_layers([0, 5, 11], 12, "evit") == (0, 5, 11)


def test_one_rate_serves_all_layers() -> None:
    assert check_rates(0.7, 3, "evit") == (0.7, 0.7, 0.7)
    assert check_rates([0.9, 0.7, 1], 3, "evit") == (0.9, 0.7, 1)


@pytest.mark.parametrize("rate", [0, -0.1, 1.5, math.nan, math.inf])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"evit: .*keep rate.*above 0 and at most 1"):
        check_rates(rate, 3, "evit")
    with pytest.raises(ValueError, match=r"evit: .*keep rate.*above 0 and at most 1"):
        check_rates([0.5, rate], 2, "evit")


def test_a_wrong_number_of_rates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 .*3 keep rates.* 2 "):
        check_rates((0.9, 0.7), 3, "evit")


def test_linear_r_gives_the_papers_numbers() -> None:
    assert linear_r(13, -1.0, 12) == (26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0)
    assert linear_r(13, 0.0, 12) == (13,) * 12
    assert linear_r(8, 1.0, 1) == (0,)


def test_a_count_in_a_compiled_model_is_a_formula_of_whole_numbers() -> None:
    graphs: list[str] = []

    def note(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return graph.forward

    def cut(x_NC: torch.Tensor) -> torch.Tensor:
        return x_NC[: ceil_share(0.7, ceil_share(0.7, x_NC.shape[0]))]

    assert torch.compile(cut, backend=note, dynamic=True)(torch.ones(196, 2)).shape[0] == 97
    assert graphs[0].count("//") == 2
    assert "float" not in graphs[0] and "ceil" not in graphs[0]
