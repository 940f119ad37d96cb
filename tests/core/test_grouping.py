"""Grouping tokens, against literal slow versions of the same rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitrim.core.grouping import Groups, density_peaks
from vitrim.core.matching import match, squared_distances
from vitrim.methods.bat.grouping import consecutive, kmeans, match_similar


def assignment(groups: Groups, num_tokens: int) -> list[dict[int, int]]:
    """The centre that each token belongs to, one dict per image; every token must occur once."""
    out = []
    for centre, member, slot in zip(groups.centre.tolist(), groups.member.tolist(), groups.slot.tolist(), strict=True):
        assert sorted(centre + member) == list(range(num_tokens))
        out.append({token: token for token in centre} | {m: centre[s] for m, s in zip(member, slot, strict=True)})
    return out


def distance(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)


def literal_density_peaks(x_MC: list[list[float]], num_groups: int, neighbours: int) -> dict[int, int]:
    """BAT's eq. 6 and 7 as this library reads them, in plain Python."""
    M, C = len(x_MC), len(x_MC[0])
    distances = [[distance(a, b) / math.sqrt(C) for b in x_MC] for a in x_MC]
    density = [math.exp(-sum(sorted(d * d for d in row)[:neighbours]) / min(neighbours, M)) for row in distances]
    by_density = sorted(range(M), key=lambda i: (-density[i], i))
    denser = {token: by_density[:place] for place, token in enumerate(by_density)}
    reach = [min((distances[i][j] for j in denser[i]), default=max(map(max, distances))) for i in range(M)]
    peaks = sorted(range(M), key=lambda i: (-density[i] * reach[i], i))
    centres = peaks[:num_groups]
    return {
        i: i if i in centres else min((j for j in centres if j in denser[i]), key=lambda j, i=i: distances[i][j])
        for i in range(M)
    }


def literal_match_similar(x_MC: list[list[float]], num_merged: int) -> dict[int, int]:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    partner = {i: max(range(i), key=lambda j, i=i: cosine(x_MC[i], x_MC[j])) for i in range(1, len(x_MC))}
    best = sorted(partner, key=lambda i: -cosine(x_MC[i], x_MC[partner[i]]))[:num_merged]

    def root(i: int) -> int:
        return root(partner[i]) if i in best else i

    return {i: root(i) for i in range(len(x_MC))}


def literal_kmeans(x_MC: list[list[float]], num_groups: int, iterations: int) -> dict[int, int]:
    M = len(x_MC)
    seeds = [g * M // num_groups for g in range(num_groups)]
    centres = [x_MC[seed] for seed in seeds]
    for _ in range(iterations):
        group = [min(range(num_groups), key=lambda g, x=x: distance(x, centres[g])) for x in x_MC]
        for g, seed in enumerate(seeds):
            group[seed] = g
        members = [[x for x, own in zip(x_MC, group, strict=True) if own == g] for g in range(num_groups)]
        centres = [[sum(values) / len(rows) for values in zip(*rows, strict=True)] for rows in members]
    return {i: seeds[g] for i, g in enumerate(group)}


def random_features(seed: int, num_tokens: int = 23) -> Tensor:
    """Three images of blobs, so that clusters mean something."""
    generator = torch.Generator().manual_seed(seed)
    blobs = 3 * torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 4, (3, num_tokens, 1), generator=generator).expand(-1, -1, 6)
    return blobs.gather(1, which) + torch.randn(3, num_tokens, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_groups", "neighbours"), [(1, 5), (3, 5), (8, 4), (22, 5), (23, 3), (5, 99)])
def test_density_peaks_equal_the_literal_rule(seed: int, num_groups: int, neighbours: int) -> None:
    x_BMC = random_features(seed)
    got = assignment(density_peaks(x_BMC, num_groups, neighbours), 23)
    assert got == [literal_density_peaks(x, num_groups, neighbours) for x in x_BMC.tolist()]


def test_one_neighbour_is_the_token_itself_so_that_densities_are_equal() -> None:
    x_BMC = random_features(0)
    got = assignment(density_peaks(x_BMC, 8, 1), 23)
    assert got == [literal_density_peaks(x, 8, 1) for x in x_BMC.tolist()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_merged", [1, 2, 7, 15, 22])
def test_match_similar_equals_the_literal_rule(seed: int, num_merged: int) -> None:
    x_BMC = random_features(seed)
    got = assignment(match_similar(x_BMC, num_merged), 23)
    assert got == [literal_match_similar(x, num_merged) for x in x_BMC.tolist()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_groups", [1, 4, 9, 23])
@pytest.mark.parametrize("iterations", [1, 3])
def test_kmeans_equals_the_literal_rule(seed: int, num_groups: int, iterations: int) -> None:
    x_BMC = random_features(seed)
    got = assignment(kmeans(x_BMC, num_groups, iterations), 23)
    assert got == [literal_kmeans(x, num_groups, iterations) for x in x_BMC.tolist()]


def test_a_chain_of_matches_is_one_group() -> None:
    angles = torch.tensor([0.0, 0.50, 0.95, 1.35, 1.70, 2.00])  # each is nearest to the one just before
    x_BMC = torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)
    assert assignment(match_similar(x_BMC, 5), 6) == [dict.fromkeys(range(6), 0)]
    assert assignment(match_similar(x_BMC, 2), 6) == [{0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3}]


def test_the_longest_chain_is_followed_to_its_end() -> None:
    for length in (2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 65):
        angles = torch.cumsum(torch.linspace(0.02, 0.01, length, dtype=torch.float64), dim=0)
        x_BMC = torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)
        assert assignment(match_similar(x_BMC, length - 1), length) == [dict.fromkeys(range(length), 0)]


def test_the_first_token_never_joins_another() -> None:
    x_BMC = torch.randn(1, 1, 3).expand(1, 6, 3)
    assert 0 in match_similar(x_BMC, 5).centre[0].tolist()


@pytest.mark.parametrize("num_groups", [1, 2, 5, 12])
@pytest.mark.parametrize("kind", ["equal", "pairs", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_groups_is_exact_and_indices_are_valid_whatever_the_data(
    num_groups: int, kind: str, dtype: torch.dtype
) -> None:
    random = torch.randn(2, 12, 5)
    x_BMC = {"equal": random[:, :1].expand(-1, 12, -1), "pairs": random[:, :6].repeat(1, 2, 1), "random": random}[kind]
    x_BMC = x_BMC.to(dtype)
    for groups in (
        density_peaks(x_BMC, num_groups, 5),
        kmeans(x_BMC, num_groups, 3),
        match_similar(x_BMC, 12 - num_groups),
        consecutive(2, 12, num_groups, x_BMC.device),
    ):
        assert groups.centre.shape == (2, num_groups)
        assert assignment(groups, 12)


@pytest.mark.parametrize(("num_tokens", "num_groups"), [(10, 3), (12, 4), (7, 7), (9, 1), (59, 13)])
def test_consecutive_groups_are_runs_of_nearly_equal_length(num_tokens: int, num_groups: int) -> None:
    for groups in assignment(consecutive(2, num_tokens, num_groups, torch.device("cpu")), num_tokens):
        centres = [groups[i] for i in range(num_tokens)]
        assert centres == sorted(centres)
        lengths = [centres.count(centre) for centre in set(centres)]
        assert len(lengths) == num_groups
        assert max(lengths) - min(lengths) <= 1
        assert all(centres.index(centre) == centre for centre in set(centres))


def test_equal_densities_rank_by_index() -> None:
    groups = assignment(density_peaks(torch.ones(1, 6, 3), 2, 5), 6)
    assert groups == [{0: 0, 1: 1, 2: 0, 3: 0, 4: 0, 5: 0}]


def test_squared_distances_are_those_and_never_negative() -> None:
    a, b = torch.randn(2, 7, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square())
    x = 100 * torch.randn(2, 50, 8)
    assert (squared_distances(x, x) >= 0).all()


def test_a_common_offset_does_not_change_the_distances() -> None:
    x = torch.randn(1, 30, 48)
    far = x.clone()
    far[..., 0] += 1000  # as a massive activation, the same in all tokens
    torch.testing.assert_close(squared_distances(far, far), squared_distances(x, x), atol=0.02, rtol=1e-2)


def test_distances_of_half_precision_are_computed_in_fp32() -> None:
    x = torch.randn(1, 30, 48).bfloat16()
    got = squared_distances(x, x)
    torch.testing.assert_close(got.double(), torch.cdist(x.double(), x.double()).square(), atol=1e-3, rtol=1e-3)


def test_autocast_does_not_change_the_distances() -> None:
    x = torch.randn(2, 30, 48)
    wanted = squared_distances(x, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_distances(x, x), wanted)


def test_tokens_of_zeros_resemble_nothing_and_are_no_nan() -> None:
    x_BMC = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    x_BMC[:, 3] = 0
    x_BMC[:, 6] = x_BMC[:, 2] * 2
    groups = match_similar(x_BMC, 1)
    assert groups.member.tolist() == [[6]]  # and not the one of zeros
    x_BND = torch.cat([torch.ones(1, 1, 4), x_BMC], dim=1)
    keep_BK, rest_BM, _ = match(x_BND, 1, 1)
    assert rest_BM.tolist() != [[3]]
    assert sorted([*keep_BK[0].tolist(), *rest_BM[0].tolist()]) == list(range(8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_centres_of_kmeans_are_means_in_fp32(dtype: torch.dtype) -> None:
    x_BMC = torch.randn(2, 600, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    half, single = kmeans(x_BMC, 2, 3), kmeans(x_BMC.float(), 2, 3)
    assert all(torch.equal(mine, other) for mine, other in zip(half, single, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = kmeans(x_BMC.float(), 2, 3)
    assert all(torch.equal(mine, other) for mine, other in zip(autocast, single, strict=True))
