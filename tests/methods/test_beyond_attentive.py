"""BAT: groups of inattentive patches and pairs of attentive ones."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

import vitrim
from vitrim.core.grouping import density_peaks
from vitrim.methods.bat.grouping import match_similar

STRATEGIES = ("cluster", "kmeans", "average", "max", "spatial", "fuse", "drop")


def test_one_reduction_by_hand(moment: Any) -> None:
    method = vitrim.BeyondAttentive(keep_rate=0.5, layers=(1,), clusters=4, pairs=3).build(moment.spec)
    out = method.after_attention(1, moment.tokens, moment.attention)
    assert out.num_patches == method.num_kept(1, 40) == 20 - 3 + 4
    for image in range(2):
        score_P, x_PC = moment.score_BP[image], moment.patches()[image]
        order = score_P.argsort(descending=True)
        groups: dict[int, list[int]] = {}
        for part, grouped in (
            (order[:20], match_similar(x_PC[order[:20]].unsqueeze(0), 3)),
            (order[20:], density_peaks(x_PC[order[20:]].unsqueeze(0), 4, 5)),
        ):
            centres = part[grouped.centre[0]].tolist()
            groups |= {centre: [centre] for centre in centres}
            for member, slot in zip(part[grouped.member[0]].tolist(), grouped.slot[0].tolist(), strict=True):
                groups[centres[slot]].append(member)
        assert len(groups) == 21
        assert torch.equal(out.x_BNC[image, :2], moment.tokens.x_BNC[image, :2])
        for members in groups.values():
            position = out.source_BP[image, members].unique()
            assert len(position) == 1
            weights = score_P[members] / score_P[members].sum()
            torch.testing.assert_close(out.x_BNC[image, int(position)], weights @ x_PC[members])


def test_the_literal_equation_sums_without_normalising(moment: Any) -> None:
    method = vitrim.BeyondAttentive(keep_rate=0.5, layers=(1,), clusters=4, pairs=3, normalize=False)
    out = method.build(moment.spec).after_attention(1, moment.tokens, moment.attention)
    for image in range(2):
        for position in range(2, 23):
            members = (out.source_BP[image] == position).nonzero().flatten()
            weights = moment.score_BP[image, members] if len(members) > 1 else torch.ones(1, dtype=torch.float64)
            torch.testing.assert_close(out.x_BNC[image, position], weights @ moment.patches()[image, members])


@pytest.mark.parametrize("inattentive", STRATEGIES)
@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize("keep_rate", [0.1, 0.5, 0.9, 0.97])
def test_every_strategy_keeps_the_announced_count(moment: Any, inattentive: str, match: bool, keep_rate: float) -> None:
    method = vitrim.BeyondAttentive(keep_rate=keep_rate, layers=(0, 1), inattentive=inattentive, match=match)
    built, tokens, num_patches = method.build(moment.spec), moment.tokens, 40
    for layer in range(2):
        num_tokens = tokens.x_BNC.shape[1]
        attention = moment.attention._replace(
            q_BHND=moment.attention.q_BHND[:, :, :num_tokens], k_BHND=moment.attention.k_BHND[:, :, :num_tokens]
        )
        tokens = built.after_attention(layer, tokens, attention)
        num_patches = built.num_kept(layer, num_patches)
        assert tokens.num_patches == num_patches
        assert tokens.x_BNC.isfinite().all()
    assert ((tokens.source_BP < 0).any()) == (inattentive == "drop")


def test_what_becomes_of_the_inattentive_patches(moment: Any) -> None:
    def sources(inattentive: str) -> list[int]:
        method = vitrim.BeyondAttentive(keep_rate=0.5, layers=(0,), inattentive=inattentive, match=False, clusters=5)
        out = method.build(moment.spec).after_attention(0, moment.tokens, moment.attention)
        return out.source_BP[0].tolist()

    order = moment.score_BP[0].argsort(descending=True).tolist()
    attentive, rest = order[:20], order[20:]
    for inattentive in ("average", "max"):
        assert [sources(inattentive)[patch] for patch in rest] == [22 + i // 4 for i in range(20)]
    assert [sources("spatial")[patch] for patch in sorted(rest)] == [22 + i // 4 for i in range(20)]
    for inattentive in ("cluster", "kmeans"):
        assert {sources(inattentive)[patch] for patch in rest} == set(range(22, 27))
    for inattentive in STRATEGIES[:5]:
        assert [sources(inattentive)[patch] for patch in attentive] == list(range(2, 22))


def test_the_alternatives_of_the_papers_table_do_differ(moment: Any) -> None:
    outputs = []
    for inattentive in STRATEGIES[:5]:
        method = vitrim.BeyondAttentive(keep_rate=0.5, layers=(0,), inattentive=inattentive, match=False, clusters=5)
        outputs.append(method.build(moment.spec).after_attention(0, moment.tokens, moment.attention).x_BNC)
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)


def test_kmeans_iterates(moment: Any) -> None:
    def sources(iterations: int) -> torch.Tensor:
        method = vitrim.BeyondAttentive(
            keep_rate=0.25, layers=(0,), inattentive="kmeans", clusters=6, iterations=iterations
        )
        return method.build(moment.spec).after_attention(0, moment.tokens, moment.attention).source_BP

    assert not torch.equal(sources(1), sources(3))


def test_the_most_attended_patch_is_never_merged_away(moment: Any) -> None:
    method = vitrim.BeyondAttentive(keep_rate=0.5, layers=(0,), pairs=19).build(moment.spec)
    out = method.after_attention(0, moment.tokens, moment.attention)
    for image in range(2):
        assert out.source_BP[image, moment.score_BP[image].argmax()] == 2


def test_without_groups_and_pairs_it_is_top_k(moment: Any) -> None:
    bat = vitrim.BeyondAttentive(keep_rate=0.5, layers=(0,), inattentive="drop", match=False).build(moment.spec)
    evit = vitrim.EViT(keep_rate=0.5, layers=(0,), fuse=False).build(moment.spec)
    got, wanted = (method.after_attention(0, moment.tokens, moment.attention) for method in (bat, evit))
    assert torch.equal(got.x_BNC, wanted.x_BNC)
    assert torch.equal(got.source_BP, wanted.source_BP)


def test_counts_per_layer_may_differ(moment: Any) -> None:
    built = vitrim.BeyondAttentive(keep_rate=0.5, layers=(0, 2), clusters=(3, 2), pairs=(4, 0)).build(moment.spec)
    assert built.num_kept(0, 40) == 20 - 4 + 3
    assert built.num_kept(2, 19) == 10 + 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inattentive": "pool"}, "inattentive .*cluster, kmeans, .*, conv, mlp, fuse, drop.*'pool'"),
        (
            {"pairs": 20},
            "block 1 .*40 patches.*20 attentive.*20 inattentive.*20 pairs",
        ),
        ({"pairs": -1}, "pairs .*at least 0.*-1"),
        ({"clusters": 21}, "21 clusters"),
        ({"clusters": -1}, "clusters .*at least 1.*-1"),
        ({"pairs": (1, 2)}, r"1 reducing layer.*\(1, 2\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(moment: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"beyond_attentive: .*{message}"):
        vitrim.BeyondAttentive(keep_rate=0.5, layers=(1,), **settings).build(moment.spec)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"inattentive": "fuse", "clusters": 5}, id="clusters are ignored where all is fused"),
        pytest.param({"inattentive": "drop", "clusters": 5}, id="clusters are ignored where all is dropped"),
        pytest.param({"match": False, "pairs": 5}, id="pairs are ignored without matching"),
        pytest.param({"clusters": 0}, id="no cluster is dropping under another name"),
        pytest.param({"neighbours": 0}, id="a density of no neighbour is no number"),
        pytest.param({"neighbours": None}, id="no number of neighbours is no default"),
        pytest.param({"inattentive": "kmeans", "iterations": (2,)}, id="iterations are no list of layers"),
        pytest.param({"inattentive": "kmeans", "iterations": 0}, id="no iteration fails in the forward"),
    ],
)
def test_settings_that_mean_nothing_are_refused(moment: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="beyond_attentive"):
        vitrim.BeyondAttentive(keep_rate=0.5, layers=(1,), **settings).build(moment.spec)


def test_default_counts_fit_at_every_keep_rate(moment: Any) -> None:
    spec = replace(moment.spec, depth=12, num_patches=196)
    for hundredths in range(5, 100, 5):
        built = vitrim.BeyondAttentive(keep_rate=hundredths / 100).build(spec)
        num_patches = 196
        for layer in (3, 6, 9):
            split = built.split(layer, num_patches)
            assert 1 <= split.clusters <= split.inattentive
            assert 0 <= split.pairs < split.attentive
            assert split.attentive + split.inattentive == num_patches
            num_patches = built.num_kept(layer, num_patches)
        assert num_patches < 196
