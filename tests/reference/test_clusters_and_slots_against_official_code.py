"""DPC-KNN, K-Medoids, Sinkhorn, PatchMerger and SiT compute what the authors' code and TokenReduction's compute.

The numbers are not in this repository: without the shared folder these tests skip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from oracles import SHARED, Oracle
from torch import Tensor

import vitrim
from vitrim.core import ops
from vitrim.core.grouping import Groups, density_peaks
from vitrim.core.precision import matmul_fp32
from vitrim.core.selection import places
from vitrim.core.slots import SlotMethod
from vitrim.core.tokens import Tokens
from vitrim.methods import k_medoids, sinkhorn, sit
from vitrim.methods.patch_merger import Queries

pytestmark = pytest.mark.skipif(
    not (SHARED / "dpcknn_function.safetensors").exists(),
    reason="the oracles of clusters and slots are not in this repository: set VITRIM_SHARED to the folder",
)

LEARNED = {f"cluster_layers.{stage}.": f"blocks.{3 * stage + 3}.method." for stage in range(3)}
MODELS: dict[str, vitrim.Method] = {
    "dpcknn_no_noise_0.7": vitrim.DPCKNN(keep_rate=0.7),
    "dpcknn_equal_weight_0.5": vitrim.DPCKNN(keep_rate=0.5, weighting="equal"),
    "kmedoids_weighted_0.7": vitrim.KMedoids(keep_rate=0.7),
    "kmedoids_equal_0.5": vitrim.KMedoids(keep_rate=0.5, weighting="equal"),
    "sinkhorn_0.7": vitrim.Sinkhorn(keep_rate=0.7),
    "patchmerger_0.7": vitrim.PatchMerger(keep_rate=0.7),
    "sit_0.7": vitrim.SiT(keep_rate=0.7),
}


def forward(name: str) -> tuple[Oracle, oracles.Run]:
    oracle = oracles.read(SHARED, name)
    return oracle, oracles.run(oracles.reduced(oracle, MODELS[name], LEARNED), oracle["input"].double())


@pytest.fixture
def starts_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """The equal start from the patch that NumPy drew in the released code, whose tokens come in another order."""
    oracle = oracles.read(SHARED, "kmedoids_equal_0.5")
    generator, order_BK, first = np.random.RandomState(oracle.settings["numpy_seed"]), None, []
    for layer, size in ((3, 36), (6, 18), (9, 9)):
        drawn = int(generator.choice(np.arange(size), 1)[0])
        first.append(torch.full((3, 1), drawn) if order_BK is None else order_BK[:, drawn : drawn + 1])
        centre_BK = oracle[f"output.layer{layer}.centers"].long()
        order_BK = places((centre_BK if order_BK is None else order_BK.gather(1, centre_BK)).argsort(dim=1))
    spread_out = k_medoids.spread_out

    def start(distance_BNN: Tensor, num: int, middle_B1: Tensor, first_B1: Tensor | None) -> Tensor:
        return spread_out(distance_BNN, num, middle_B1, first.pop(0) if first_B1 is None else first_B1)

    monkeypatch.setattr(k_medoids, "spread_out", start)


@pytest.mark.parametrize("name", MODELS)
def test_counts_features_and_logits_equal(name: str, request: pytest.FixtureRequest) -> None:
    if name == "kmedoids_equal_0.5":
        request.getfixturevalue("starts_as_released")
    oracle, ours = forward(name)
    oracles.assert_logits_equal(ours.logits, oracle)
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    for layer in oracle.layers("tokens"):
        wanted_BNC = oracle[f"output64.layer{layer}.tokens"]
        if isinstance(MODELS[name], SlotMethod):  # slots have an order
            assert_near(ours.features[layer], wanted_BNC)
        else:
            assert_same_rows(ours.features[layer], wanted_BNC)


def assert_same_rows(got_BNC: Tensor, wanted_BNC: Tensor) -> None:
    """The same tokens, in any order."""
    nearest_BN = torch.cdist(wanted_BNC, got_BNC).argmin(dim=2)
    assert torch.equal(nearest_BN.sort(dim=1).values, torch.arange(wanted_BNC.shape[1]).expand_as(nearest_BN))
    assert (ops.take(got_BNC, nearest_BN) - wanted_BNC).abs().max() <= oracles.EXACT


@pytest.mark.parametrize("name", [name for name in MODELS if "dpcknn" in name or "kmedoids" in name])
def test_the_first_clusters_and_their_centres_are_the_same(name: str, request: pytest.FixtureRequest) -> None:
    if name == "kmedoids_equal_0.5":
        request.getfixturevalue("starts_as_released")
    oracle, ours = forward(name)
    source_BP = ours.tokens[3].source_BP
    assert source_BP is not None
    for ours_P, theirs_P, centres in zip(
        source_BP, oracle["output.layer3.assignment"], oracle["output.layer3.centers"].tolist(), strict=True
    ):
        if "kmedoids" in name:  # whose other patches go
            assert set((ours_P >= 0).nonzero().flatten().tolist()) == set(centres)
        else:
            assert partition(ours_P) == partition(theirs_P)


def partition(group_N: Tensor) -> set[frozenset[int]]:
    return {frozenset((group_N == value).nonzero().flatten().tolist()) for value in group_N.unique()}


def group_of_each(groups: Groups, num_tokens: int) -> Tensor:
    """The number of the group of each token."""
    own = torch.arange(groups.centre.shape[1]).expand_as(groups.centre)
    empty = groups.centre.new_zeros(len(groups.centre), num_tokens)
    return empty.scatter(1, groups.centre, own).scatter(1, groups.member, groups.slot)


def assert_clusters_equal(groups: Groups, oracle: Oracle) -> None:
    assert torch.equal(groups.centre.sort(dim=1).values, oracle["output.centers"].long().sort(dim=1).values)
    ours_BN = group_of_each(groups, oracle["input.x"].shape[1])
    for ours_N, theirs_N in zip(ours_BN, oracle["output.assignment"], strict=True):
        assert partition(ours_N) == partition(theirs_N)


@pytest.mark.parametrize("name", ["dpcknn_function", "dpcknn_function_k3"])
def test_one_clustering_by_density_peaks_equals(name: str) -> None:
    oracle = oracles.read(SHARED, name)
    x_BNC, weight_BN = oracle["input.x"].double(), oracle["input.token_weight"].double().squeeze(2)
    groups = density_peaks(x_BNC, oracle.settings["clusters"], oracle.settings["k"], to_denser=False)
    assert_clusters_equal(groups, oracle)
    for key, weights in (("x_weighted", weight_BN), ("x_mean", torch.ones_like(weight_BN))):
        merged = ops.merge(Tokens(x_BNC, 0), groups.centre, groups.member, groups.slot, weights)
        nearest = torch.cdist(oracle[f"output.{key}"], merged.x_BNC).amin(dim=2)
        assert nearest.max() <= 2e-5  # without the 1e-6 in the denominator


def test_one_clustering_around_medoids_equals() -> None:
    for name in ("kmedoids_fit_weighted", "kmedoids_fit_equal"):
        oracle = oracles.read(SHARED, name)
        first = oracle.settings["first_center"]
        weight_BN = oracle["input.token_weight"].double().squeeze(2) if oracle.settings["weighted"] else None
        first_B1 = None if first is None else torch.full((2, 1), first)
        groups = k_medoids.medoids(oracle["input.x"].double(), oracle.settings["clusters"], 3, weight_BN, first_B1)
        assert_clusters_equal(groups, oracle)


def test_the_modules_of_slots_equal() -> None:
    sinks = oracles.read(SHARED, "sinkhorn_module")
    unit_BNC, centre_KC = (F.normalize(sinks[key].double(), dim=-1) for key in ("input.x", "weights.v"))
    for end, eps, iterations in (("", 1.0, 3), ("_eps0.1_iters5", 0.1, 5)):
        weight_BKN = sinkhorn.transport(matmul_fp32(unit_BNC, centre_KC.t()).mT / eps, iterations)
        assert_near(weight_BKN, sinks[f"output64.weights{end}"])
        assert_near(weight_BKN @ unit_BNC, sinks[f"output64.x{end}"])
    slims = oracles.read(SHARED, "sit_token_slimming_module")
    module = made(sit.Slimming(9, 16), slims)
    assert_near(module(slims["input.x"].double()), slims["output64.weights"])


def test_patch_merger_has_the_official_weights_by_their_own_names() -> None:
    oracle = oracles.read(SHARED, "patchmerger_module")
    module = made(Queries(9, 16), oracle)
    normed_BNC = module.norm(oracle["input.x"].double())
    assert_near((module.queries @ normed_BNC.mT).softmax(dim=2), oracle["output64.attention"])


def made(module: Any, oracle: Oracle) -> Any:
    weights = {key: value for key, value in oracle.weights().items() if not key.startswith("reverse.")}
    module.double().load_state_dict(weights)
    return module


def assert_near(got: Tensor, wanted: Tensor) -> None:
    assert (got - wanted).abs().max() <= oracles.EXACT
