"""The diversity score of BAT, eq. 4."""

from __future__ import annotations

import pytest
import torch

from vitrim.measure.diversity import diversity


def test_equal_tokens_have_no_diversity():
    same = torch.randn(2, 1, 8).expand(2, 5, 8)
    assert diversity(same).tolist() == [0.0, 0.0]
    assert diversity(same, relative=True).tolist() == [0.0, 0.0]
    assert diversity(torch.randn(3, 1, 8)).tolist() == [0.0, 0.0, 0.0]


def test_the_nearest_rank_one_matrix_of_its_own_tokens_is_taken():
    z = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, -1.0]]])
    # distances of the others: 1 + 4 from the first, 1 + 3 from the second, 4 + 3 from the third
    assert diversity(z).tolist() == [4.0]
    assert diversity(z, relative=True).item() == pytest.approx(4 / 5)


def test_it_is_the_sum_of_absolute_entries_by_definition():
    torch.manual_seed(0)
    z = torch.randn(4, 7, 16, dtype=torch.float64)
    wanted = [min(float((image - token).abs().sum()) for token in image) for image in z]
    torch.testing.assert_close(diversity(z), torch.tensor(wanted, dtype=torch.float64))


def test_images_do_not_depend_on_each_other_nor_tokens_on_their_order():
    torch.manual_seed(0)
    z = torch.randn(3, 20, 8)
    score = diversity(z)
    torch.testing.assert_close(diversity(z[1:2]), score[1:2])
    torch.testing.assert_close(diversity(z[:, torch.randperm(20)]), score)


def test_the_relative_score_does_not_depend_on_scale_and_is_zero_for_zeros():
    torch.manual_seed(0)
    z = torch.randn(2, 9, 8)
    torch.testing.assert_close(diversity(10 * z, relative=True), diversity(z, relative=True))
    torch.testing.assert_close(diversity(10 * z), 10 * diversity(z))
    assert diversity(torch.zeros(1, 3, 4), relative=True).tolist() == [0.0]


def test_the_relative_score_of_random_tokens_is_above_one():
    assert 1.2 < diversity(torch.randn(1, 197, 192), relative=True).item() < 1.4


def test_half_precision_is_scored_in_fp32():
    torch.manual_seed(0)
    z = torch.randn(2, 9, 8).bfloat16()
    assert diversity(z).dtype == torch.float32
    assert diversity(z).equal(diversity(z.float()))


def test_fewer_different_tokens_are_less_diverse():
    torch.manual_seed(0)
    z = torch.randn(1, 16, 8)
    merged = torch.cat([z[:, :8], z[:, :1].expand(1, 8, 8)], dim=1)
    assert diversity(merged) < diversity(z)


@pytest.mark.parametrize("shape", [(5, 8), (2, 0, 8)])
def test_something_else_than_tokens_is_an_error(shape):
    with pytest.raises(ValueError, match=r"\[B, N, C\]"):
        diversity(torch.zeros(shape))
