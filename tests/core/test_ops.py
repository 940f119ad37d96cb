"""Every way in which tokens become fewer, against plain loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitrim.core import ops
from vitrim.core.tokens import Tokens

B, P, C = 2, 9, 4


each_prefix = pytest.mark.parametrize("prefix", [0, 1, 5])


each_reduction = pytest.mark.parametrize(
    "reduce",
    [
        lambda tokens, keep, rest, slot, weight: ops.keep(tokens, keep),  # noqa: ARG005
        lambda tokens, keep, rest, slot, weight: ops.fuse(tokens, keep, weight),  # noqa: ARG005
        ops.merge,
        lambda *arguments: ops.merge(*arguments, how="sum"),
        lambda *arguments: ops.merge(*arguments, how="max"),
        lambda *arguments: ops.merge(*arguments[:-1], None),
    ],
    ids=["keep", "fuse", "mean", "sum", "max", "by size"],
)


def some_tokens(prefix: int, *, sizes: bool = False, sources: bool = True) -> Tokens:
    """Random features in float64; with sources, spelled out, as before the first block."""
    torch.manual_seed(0)
    x_BNC = torch.randn(B, prefix + P, C, dtype=torch.float64)
    size_BN = torch.randint(1, 5, (B, prefix + P)).double() if sizes else None
    source_BP = torch.arange(prefix, prefix + P).expand(B, -1) if sources else None
    weight_BP = torch.ones(B, P, dtype=torch.float64) if sources else None
    return Tokens(x_BNC, prefix, size_BN, sources, source_BP, weight_BP)


def some_groups() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kept, others, the kept one that each joins, weights; other in every image; slot 1 of image 0 stays alone."""
    keep_BK = torch.tensor([[7, 2, 4, 0], [8, 1, 3, 5]])
    rest_BM = torch.tensor([[1, 3, 5, 6, 8], [0, 2, 4, 6, 7]])
    slot_BM = torch.tensor([[0, 0, 2, 3, 0], [1, 1, 1, 1, 1]])
    torch.manual_seed(1)
    return keep_BK, rest_BM, slot_BM, torch.rand(B, P, dtype=torch.float64)


def merged_by_hand(tokens: Tokens, how: str) -> Tensor:
    """What merge is meant to do to the features."""
    out_BNC = []
    for x_NC, keep_K, rest_M, slot_M, weight_N in zip(tokens.x_BNC, *some_groups(), strict=True):
        rows = list(x_NC[: tokens.num_prefix])
        for position, kept in enumerate(keep_K):
            members = [int(kept), *rest_M[slot_M == position].tolist()]
            x_MC = x_NC[tokens.num_prefix :][members]
            weight_M1 = weight_N[members].unsqueeze(1)
            values = {
                "mean": (weight_M1 * x_MC).sum(dim=0) / weight_M1.sum(),
                "sum": (weight_M1 * x_MC).sum(dim=0) if len(members) > 1 else x_MC[0],
                "max": x_MC.amax(dim=0),
            }
            rows.append(values[how])
        out_BNC.append(torch.stack(rows))
    return torch.stack(out_BNC)


def from_patches(tokens: Tokens, x_BPC: Tensor) -> Tensor:
    """The patch tokens as their sources and weights say: the weighted sum of the patches in each."""
    assert tokens.source_BP is not None
    assert tokens.weight_BP is not None
    holds_BPN = torch.nn.functional.one_hot(tokens.source_BP + 1, tokens.x_BNC.shape[1] + 1)[..., 1:].double()
    return ((holds_BPN * tokens.weight_BP.unsqueeze(-1)).transpose(1, 2) @ x_BPC)[:, tokens.num_prefix :]


def test_rank_is_best_first_and_breaks_ties_by_index() -> None:
    score_BN = torch.randint(0, 3, (4, 1000)).float()
    best, others = ops.rank(score_BN, 400)
    wanted = [sorted(range(1000), key=lambda i, row=row: (-row[i], i)) for row in score_BN.tolist()]
    assert torch.cat([best, others], dim=1).tolist() == wanted


@each_prefix
def test_keep_keeps_the_prefix_and_those_patches_in_that_order(prefix: int) -> None:
    tokens = some_tokens(prefix, sizes=True)
    keep_BK = some_groups()[0]
    kept = ops.keep(tokens, keep_BK)
    assert tokens.size_BN is not None
    assert kept.size_BN is not None
    assert kept.source_BP is not None
    for image in range(B):
        rows = [*range(prefix), *(keep_BK[image] + prefix).tolist()]
        assert torch.equal(kept.x_BNC[image], tokens.x_BNC[image, rows])
        assert torch.equal(kept.size_BN[image], tokens.size_BN[image, rows])
        wanted = [rows.index(patch + prefix) if patch + prefix in rows else -1 for patch in range(P)]
        assert kept.source_BP[image].tolist() == wanted


@each_prefix
def test_fuse_appends_the_plain_weighted_sum_of_the_others(prefix: int) -> None:
    tokens = some_tokens(prefix, sizes=True)
    keep_BK, rest_BM, _, weight_BN = some_groups()
    fused = ops.fuse(tokens, keep_BK, weight_BN)
    assert torch.equal(fused.x_BNC[:, :-1], ops.keep(tokens, keep_BK).x_BNC)
    assert fused.size_BN is not None
    assert fused.source_BP is not None
    for image in range(B):
        rest = rest_BM[image]
        wanted = (weight_BN[image, rest].unsqueeze(1) * tokens.patches_BNC[image, rest]).sum(dim=0)
        torch.testing.assert_close(fused.x_BNC[image, -1], wanted)
        assert fused.size_BN[image, -1] == ops.patch_sizes(tokens)[image, rest].sum()
        assert (fused.source_BP[image, rest] == prefix + keep_BK.shape[1]).all()


@each_prefix
@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@pytest.mark.parametrize("sources", [False, True])
def test_merge_equals_a_loop_over_the_groups(prefix: int, how: str, sources: bool) -> None:
    tokens = some_tokens(prefix, sources=sources)
    merged = ops.merge(tokens, *some_groups(), how=how)
    torch.testing.assert_close(merged.x_BNC, merged_by_hand(tokens, how))


@each_prefix
def test_merging_adds_sizes_up(prefix: int) -> None:
    tokens = some_tokens(prefix, sizes=True)
    keep_BK, rest_BM, slot_BM, weight_BN = some_groups()
    merged = ops.merge(tokens, keep_BK, rest_BM, slot_BM, weight_BN)
    assert tokens.size_BN is not None
    assert merged.size_BN is not None
    assert torch.equal(merged.size_BN[:, :prefix], tokens.size_BN[:, :prefix])
    assert torch.equal(merged.size_BN.sum(dim=1), tokens.size_BN.sum(dim=1))
    size_K = ops.patch_sizes(tokens)[1, keep_BK[1]].index_add(0, slot_BM[1], ops.patch_sizes(tokens)[1, rest_BM[1]])
    assert torch.equal(ops.patch_sizes(merged)[1], size_K)


def test_sizes_are_counted_only_when_somebody_asks() -> None:
    tokens = some_tokens(1)
    assert ops.merge(tokens, *some_groups()).size_BN is None
    counted = ops.merge(tokens, *some_groups()[:3], None)
    assert counted.size_BN is not None
    assert counted.size_BN.tolist() == [[1, 4, 1, 2, 2], [1, 1, 6, 1, 1]]


@each_prefix
@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_without_weights_each_patch_weighs_its_size(prefix: int, how: str) -> None:
    tokens = some_tokens(prefix, sizes=True)
    keep_BK, rest_BM, slot_BM, _ = some_groups()
    by_size = ops.merge(tokens, keep_BK, rest_BM, slot_BM, None, how=how)
    wanted = ops.merge(tokens, keep_BK, rest_BM, slot_BM, ops.patch_sizes(tokens), how=how)
    for name in ("x_BNC", "size_BN", "source_BP", "weight_BP"):
        assert torch.equal(getattr(by_size, name), getattr(wanted, name))


@each_prefix
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_sources_and_weights_tell_the_features_after_several_reductions(prefix: int, how: str) -> None:
    tokens = some_tokens(prefix)
    x_BPC = tokens.patches_BNC
    keep_BK, rest_BM, slot_BM, weight_BN = some_groups()
    tokens = ops.merge(tokens, keep_BK, rest_BM, slot_BM, weight_BN, how=how)
    torch.testing.assert_close(from_patches(tokens, x_BPC), tokens.patches_BNC)
    tokens = ops.fuse(tokens, torch.tensor([[3, 1], [0, 2]]), weight_BN[:, :4])
    torch.testing.assert_close(from_patches(tokens, x_BPC), tokens.patches_BNC)
    tokens = ops.merge(
        tokens, torch.tensor([[2, 0]] * B), torch.tensor([[1]] * B), torch.tensor([[0]] * B), weight_BN[:, 4:7], how=how
    )
    torch.testing.assert_close(from_patches(tokens, x_BPC), tokens.patches_BNC)
    tokens = ops.keep(tokens, torch.tensor([[1], [0]]))
    torch.testing.assert_close(from_patches(tokens, x_BPC), tokens.patches_BNC)


@each_reduction
def test_no_sources_yet_means_every_patch_in_its_own_token(reduce: Callable[..., Tokens]) -> None:
    spelled_out = some_tokens(2, sizes=True)
    implied = reduce(spelled_out._replace(source_BP=None, weight_BP=None), *some_groups())
    wanted = reduce(spelled_out, *some_groups())
    assert implied.source_BP is not None
    assert implied.weight_BP is not None
    assert torch.equal(implied.source_BP, wanted.source_BP)
    assert torch.equal(implied.weight_BP, wanted.weight_BP)


def test_nothing_is_followed_unless_traced() -> None:
    tokens = some_tokens(1, sources=False)
    for reduced in (ops.keep(tokens, some_groups()[0]), ops.merge(tokens, *some_groups())):
        assert (reduced.source_BP, reduced.weight_BP) == (None, None)


def test_a_dropped_patch_stays_dropped_and_weighs_nothing() -> None:
    tokens = ops.keep(some_tokens(1), torch.tensor([[3, 1, 0], [8, 7, 6]]))
    fused = ops.fuse(tokens, torch.tensor([[0], [1]]), torch.rand(B, 3, dtype=torch.float64))
    assert fused.source_BP is not None
    assert fused.weight_BP is not None
    assert not fused.weight_BP[fused.source_BP < 0].any()
    assert fused.source_BP.tolist() == [[2, 2, -1, 1, -1, -1, -1, -1, -1], [-1, -1, -1, -1, -1, -1, 2, 1, 2]]


@each_prefix
@each_reduction
def test_what_comes_in_is_never_written_to(prefix: int, reduce: Callable[..., Tokens]) -> None:
    tokens, arguments = some_tokens(prefix, sizes=True), some_groups()
    before = [value.clone() for value in (*tokens, *arguments) if isinstance(value, Tensor)]
    reduce(tokens, *arguments)
    after = [value for value in (*tokens, *arguments) if isinstance(value, Tensor)]
    assert all(torch.equal(mine, other) for mine, other in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mean_of_equal_rows_is_that_row_to_the_last_bit(dtype: torch.dtype) -> None:
    keep_BK, rest_BM, slot_BM, weight_BN = some_groups()
    x_BNC = torch.randn(B, 1, C).expand(-1, P, -1).to(dtype)
    merged = ops.merge(Tokens(x_BNC, 0), keep_BK, rest_BM, slot_BM, weight_BN)
    assert merged.x_BNC.dtype == dtype
    assert torch.equal(merged.x_BNC, x_BNC[:, :4])


def test_sizes_are_exact_in_half_precision() -> None:
    tokens = Tokens(torch.randn(1, 301, C).bfloat16(), 0)
    one, others = torch.tensor([[0]]), torch.arange(1, 301).unsqueeze(0)
    merged = ops.merge(tokens, one, others, torch.zeros_like(others), None)
    assert merged.size_BN is not None
    assert merged.size_BN.tolist() == [[301]]


def test_weights_of_zero_do_not_divide_by_zero() -> None:
    keep_BK, rest_BM, slot_BM, weight_BN = some_groups()
    merged = ops.merge(some_tokens(1), keep_BK, rest_BM, slot_BM, torch.zeros_like(weight_BN))
    assert merged.x_BNC.isfinite().all()


def test_nothing_to_merge_only_reorders() -> None:
    tokens = some_tokens(1)
    nothing = torch.zeros(B, 0, dtype=torch.long)
    keep_BK = torch.arange(P).flip(0).expand(B, -1)
    merged = ops.merge(tokens, keep_BK, nothing, nothing, torch.rand(B, P, dtype=torch.float64))
    assert torch.equal(merged.patches_BNC, tokens.patches_BNC.flip(1))


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_gradients_of_merge_are_those_of_its_formula(how: str) -> None:
    keep_BK, rest_BM, slot_BM, weight_BN = some_groups()
    x_BNC = some_tokens(1).x_BNC

    def merge(x: Tensor, weight: Tensor) -> Tensor:
        return ops.merge(Tokens(x, 1), keep_BK, rest_BM, slot_BM, weight, how=how).x_BNC

    assert torch.autograd.gradcheck(merge, (x_BNC.requires_grad_(), weight_BN.requires_grad_()))


def test_gradients_of_fuse_are_those_of_its_formula() -> None:
    keep_BK, _, _, weight_BN = some_groups()
    x_BNC = some_tokens(1).x_BNC
    assert torch.autograd.gradcheck(
        lambda x, weight: ops.fuse(Tokens(x, 1), keep_BK, weight).x_BNC,
        (x_BNC.requires_grad_(), weight_BN.requires_grad_()),
    )


@each_prefix
def test_spread_gives_every_patch_the_features_of_its_token(prefix: int) -> None:
    tokens = ops.merge(some_tokens(prefix), *some_groups())
    spread = ops.unmerge(tokens)
    assert tokens.source_BP is not None
    assert spread.num_prefix == prefix
    for image in range(B):
        assert torch.equal(spread.x_BNC[image, :prefix], tokens.x_BNC[image, :prefix])
        assert torch.equal(spread.x_BNC[image, prefix:], tokens.x_BNC[image, tokens.source_BP[image]])


def test_the_mean_of_thousands_of_patches_stays_in_the_range_of_fp16() -> None:
    x_BNC = torch.full((1, 4097, 2), 30.0, dtype=torch.float16)  # their sum is 122,880
    source_BP = torch.arange(1, 4097).unsqueeze(0).masked_fill(torch.arange(4096) == 7, -1)
    tokens = Tokens(x_BNC, 1, source_BP=source_BP)
    assert ops.unmerge(tokens).x_BNC.eq(30).all()
