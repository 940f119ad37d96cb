"""ToMe computes what the authors' code computes: matching, merging, sizes, logits.

Their licence (CC-BY-NC 4.0) keeps the numbers out of this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from collections.abc import Sequence

import oracles
import pytest
import torch
from oracles import SHARED, Oracle
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core import ops, schedule
from vitrim.core.matching import match
from vitrim.core.tokens import Tokens

pytestmark = pytest.mark.skipif(
    not (SHARED / "tome_r2.safetensors").exists(),
    reason="the ToMe oracles (CC-BY-NC) are not in this repository: set VITRIM_SHARED to the folder that has them",
)

PLAIN = ("r2", "r2_decreasing", "r2_increasing", "r2_no_prop_attn", "r3_inflect_half", "list")
CLAMPED = ("r3", "r8_clamped")  # the official code merged fewer than asked for, and said nothing
MATCHINGS = ("odd_cls", "even_cls", "cls_dist", "no_cls", "clamped")


def r_of(oracle: Oracle) -> int | tuple[int, float] | list[int]:
    """The setting as a user writes it."""
    r = oracle.settings["r"]
    return (r[0], r[1]) if isinstance(r, list) and isinstance(r[-1], float) else r


def merged_per_block(oracle: Oracle, num_tokens: int = 37) -> list[int]:
    """How many tokens each block did merge away."""
    counts = [num_tokens, *oracle["output.num_tokens"].tolist()]
    return [before - after for before, after in zip(counts, counts[1:], strict=False)]


def reduced(oracle: Oracle, r: int | tuple[int, float] | Sequence[int], clamp: bool = False) -> VisionTransformer:
    return oracles.reduced(oracle, vitrim.ToMe(r=r, prop_attn=oracle.settings["prop_attn"], clamp=clamp))


def assert_equal(model: VisionTransformer, oracle: Oracle) -> None:
    ours = oracles.run(model, oracle["input"].double())
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_logits_equal(ours.logits, oracle)
    oracles.assert_features_equal(ours, oracle)
    holder_BN = torch.arange(37).expand(3, -1)
    for layer in oracle.layers("src_idx"):
        prefix = f"output.layer{layer}."
        source_BP, size_BN = ours.tokens[layer].source_BP, ours.tokens[layer].size_BN
        assert source_BP is not None
        assert size_BN is not None
        indices = (oracle[prefix + name].long() for name in ("src_idx", "dst_idx", "unm_idx"))
        holder_BN = moved(*indices, num_tokens=ours.features[layer - 1].shape[1] if layer else 37).gather(1, holder_BN)
        assert torch.equal(source_BP, holder_BN[:, 1:])
        assert torch.equal(size_BN, oracle[prefix + "size"].double())
    assert torch.equal(oracle["output.source"].long().argmax(dim=1)[:, 1:], holder_BN[:, 1:])


def moved(src_BM: Tensor, dst_BM: Tensor, unm_BU: Tensor, num_tokens: int) -> Tensor:
    """Where each token goes, [B, N]: unmerged A, then B; a merged A token goes where its partner in B goes."""
    B, U = unm_BU.shape
    to_A = torch.full((B, (num_tokens + 1) // 2), -1).scatter(1, unm_BU, torch.arange(U).expand(B, -1))
    to_A = to_A.scatter(1, src_BM, dst_BM + U)
    out = torch.full((B, num_tokens), -1)
    out[:, ::2], out[:, 1::2] = to_A, U + torch.arange(num_tokens // 2)
    assert (out >= 0).all()
    return out


@pytest.mark.parametrize("name", PLAIN)
def test_pairs_and_sizes_and_features_and_logits_equal(name: str) -> None:
    oracle = oracles.read(SHARED, f"tome_{name}")
    assert_equal(reduced(oracle, r_of(oracle)), oracle)


@pytest.mark.parametrize("name", CLAMPED)
def test_what_the_official_code_clamps_silently_is_an_error(name: str) -> None:
    oracle = oracles.read(SHARED, f"tome_{name}")
    with pytest.raises(ValueError, match=r"r = \d in block \d+ .*\d+ patches"):
        reduced(oracle, r_of(oracle))


@pytest.mark.parametrize("name", CLAMPED)
def test_the_counts_that_the_official_code_merged_give_its_result(name: str) -> None:
    oracle = oracles.read(SHARED, f"tome_{name}")
    merged = merged_per_block(oracle)
    assert merged != oracle["output.r"].tolist()
    assert_equal(reduced(oracle, merged), oracle)


@pytest.mark.parametrize("name", CLAMPED)
def test_clamped_a_block_merges_what_it_can_as_in_the_official_code(name: str) -> None:
    oracle = oracles.read(SHARED, f"tome_{name}")
    assert_equal(reduced(oracle, r_of(oracle), clamp=True), oracle)


def test_a_distilled_model_equals_with_both_of_its_tokens_protected() -> None:
    oracle = oracles.read(SHARED, "tome_distilled_r3")
    images = oracle["input"].double()
    with pytest.raises(ValueError, match=r"r = 3 in block 11 .*3 patches"):
        oracles.reduced(oracle, vitrim.ToMe(r=3), cls=VisionTransformerDistilled)
    merged = merged_per_block(oracle, num_tokens=38)
    assert merged == [3] * 11 + [1]
    ours = oracles.run(oracles.reduced(oracle, vitrim.ToMe(r=merged), cls=VisionTransformerDistilled), images)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    oracles.assert_logits_equal(ours.logits, oracle)
    oracles.assert_features_equal(ours, oracle)
    last = ours.tokens[11]
    assert last.source_BP is not None
    assert last.size_BN is not None
    assert torch.equal(last.source_BP, oracle["output.source"].long().argmax(dim=1)[:, 2:])
    assert torch.equal(last.size_BN, oracle["output.size"].double())


@pytest.mark.parametrize("name", MATCHINGS)
def test_the_matching_pairs_the_same_tokens_in_the_same_order(name: str) -> None:
    oracle, prefix, r = matching(name)
    keep_BK, rest_BM, slot_BM = match(oracle["input.metric"].double(), prefix, r)
    unm, src, dst = (oracle[f"output.{which}_idx"].long() for which in ("unm", "src", "dst"))
    b_BN = torch.arange(1, oracle.settings["N"], 2).expand(len(unm), -1)
    unmerged_then_b = torch.cat([2 * unm, b_BN], dim=1)
    assert torch.equal(keep_BK + prefix, without_prefix(unmerged_then_b, prefix))
    assert torch.equal(rest_BM + prefix, 2 * src)
    assert torch.equal(keep_BK.gather(1, slot_BM) + prefix, 2 * dst + 1)


@pytest.mark.parametrize("name", MATCHINGS)
def test_merging_and_unmerging_give_the_same_values(name: str) -> None:
    oracle, prefix, r = matching(name)
    size_BN = oracle["input.size"].double().squeeze(-1)
    out = merged(oracle, prefix, r, size_BN, how="mean")
    assert (out.x_BNC - oracle["output64.x"]).abs().max() <= oracles.EXACT
    assert out.size_BN is not None
    assert (out.size_BN - oracle["output64.size"].squeeze(-1)).abs().max() <= oracles.EXACT
    unit = merged(oracle, prefix, r, torch.ones_like(size_BN), how="mean")
    assert (unit.x_BNC - oracle["output.x_unit_size"]).abs().max() <= oracles.SINGLE
    assert unit.size_BN is not None
    assert torch.equal(unit.size_BN, oracle["output.unit_size"].double().squeeze(-1))
    assert torch.equal(merged(oracle, prefix, r, size_BN, how="max").x_BNC.float(), oracle["output.x_amax"])
    holder_BN = oracle["output.source"].long().argmax(dim=1)
    back = ops.unmerge(out).x_BNC
    assert (back - ops.take(oracle["output64.x"], holder_BN)).abs().max() <= oracles.EXACT
    if name != "cls_dist":  # the official unmerge forgets that merging moved the distillation token to the front
        assert (back - oracle["output.unmerged"]).abs().max() <= oracles.SINGLE


def test_a_matching_beyond_half_of_the_patches_is_an_error() -> None:
    oracle = oracles.read(SHARED, "tome_matching_clamped")
    assert (oracle.settings["r"], oracle.settings["expected_tokens"]) == (99, 9)  # 17 tokens, and it merged 8
    with pytest.raises(ValueError, match=r"r = 99 in block 0 .*36 patches"):
        oracles.reduced(oracles.read(SHARED, "tome_r2"), vitrim.ToMe(r=99))


def test_schedules_equal() -> None:
    oracle = oracles.read(SHARED, "tome_r_schedules")
    model = VisionTransformer(img_size=64, patch_size=4, embed_dim=12, depth=12, num_heads=1, num_classes=1)
    for case, setting in oracle.settings.items():
        wanted = oracle.tensors.get(f"output.{case}")
        if wanted is None or case == "r_0_depth24":
            continue
        values = [float(value) for value in setting.strip("()[]").split(",")]
        r = (int(values[0]), values[1]) if setting[0] == "(" else [int(value) for value in values]
        r = r[0] if setting.isdigit() else r
        assert list(vitrim.reduce_tokens(model, "tome", r=r).blocks.method.r) == wanted.tolist(), case
    assert list(schedule.linear_r(8, -1.0, 24)) == oracle["output.r_0_depth24"].tolist()


def matching(name: str) -> tuple[Oracle, int, int]:
    """The case, its number of protected tokens, and how many were really merged."""
    oracle = oracles.read(SHARED, f"tome_matching_{name}")
    prefix = int(oracle.settings["class_token"]) + int(oracle.settings["distill_token"])
    return oracle, prefix, oracle.settings["N"] - oracle.settings["expected_tokens"]


def merged(oracle: Oracle, prefix: int, r: int, size_BN: Tensor, how: str) -> Tokens:
    """The case's features merged by our own matching; sources are kept."""
    x_BNC = oracle["input.x"].double()
    tokens = Tokens(x_BNC, prefix, size_BN, traced=True)
    arguments = match(oracle["input.metric"].double(), prefix, r)
    return ops.merge(tokens, *arguments, None, how=how)


def without_prefix(index_BN: Tensor, prefix: int) -> Tensor:
    """The indices but those of the prefix tokens, order kept."""
    return torch.stack([index[index >= prefix] for index in index_BN])
