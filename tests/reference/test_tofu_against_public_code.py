"""ToFu computes what the public versions compute; no code of its authors is public.

The files of OpenToMe (Apache-2.0) are in this repository. Those of PiToMe's (CC-BY-NC 4.0) are not: without the shared
folder that test skips.
"""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import SHARED, TOFU

import vitrim
from vitrim.core import ops
from vitrim.core.matching import match
from vitrim.core.tokens import Tokens


@pytest.mark.parametrize(("name", "r"), [("r2", 2), ("r3_decreasing", (3, -1.0))])
@pytest.mark.parametrize(("norm", "wanted"), [("old", "output64.logits"), ("mean", "reference64.logits_renormalised")])
def test_counts_and_logits_equal(name: str, r: int | tuple[int, float], norm: str, wanted: str) -> None:
    oracle = oracles.read(TOFU, f"tofu_{name}")
    method = vitrim.ToFu(r=r, norm=norm)  # type: ignore[arg-type]
    ours = oracles.run(oracles.reduced(oracle, method), oracle["input"].double())
    assert ours.num_tokens() == oracle["output.num_tokens"].tolist()
    assert (ours.logits - oracle[wanted]).abs().max() <= oracles.EXACT


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("old_norm", "output64.norm_kept"),
        ("norm", "reference64.norm_kept_renormalised"),
        ("mean", "output64.mean"),
        (None, "output64.pruned"),
    ],
)
def test_one_merge_gives_the_same_values(how: str | None, wanted: str) -> None:
    oracle = oracles.read(TOFU, "tofu_merge")
    tokens = Tokens(oracle["input.x"].double(), 1, traced=True)
    keep_BK, rest_BM, slot_BM = match(oracle["input.metric"].double(), 1, oracle.settings["r"])
    if how is None:
        out = ops.keep(tokens, keep_BK)
    else:
        out = ops.merge(tokens, keep_BK, rest_BM, slot_BM, torch.ones_like(ops.patch_sizes(tokens)), how=how)
    assert (out.x_BNC - oracle[wanted]).abs().max() <= oracles.EXACT
    assert out.source_BP is not None
    assert out.weight_BP is not None
    weighted_BPC = out.weight_BP.unsqueeze(2) * tokens.patches_BNC
    made_BNC = torch.zeros_like(out.x_BNC)
    for image in range(2):
        made_BNC[image].index_add_(0, out.source_BP[image].clamp(min=0), weighted_BPC[image])
    torch.testing.assert_close(made_BNC[:, 1:], out.x_BNC[:, 1:])


@pytest.mark.skipif(
    not (SHARED / "tofu_ratio_0.9.safetensors").exists(),
    reason="this oracle (CC-BY-NC) is not in this repository: set VITRIM_SHARED to the folder that has it",
)
def test_the_version_in_pitomes_repository_equals() -> None:
    oracle = oracles.read(SHARED, "tofu_ratio_0.9")
    counts = [37, *oracle["output.num_tokens"].tolist()]
    r = [before - after for before, after in zip(counts, counts[1:], strict=False)]
    ours = oracles.run(oracles.reduced(oracle, vitrim.ToFu(r=r, norm="old")), oracle["input"].double())
    assert ours.num_tokens() == counts[1:]
    oracles.assert_logits_equal(ours.logits, oracle)
