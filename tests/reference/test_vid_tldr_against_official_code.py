"""vid-TLDR computes what the authors' code computes: foreground scores, merged tokens, sizes."""

from __future__ import annotations

import oracles
import pytest
import torch
from oracles import VID_TLDR, Oracle

import vitrim
from vitrim.core.attention import Attention
from vitrim.core.tokens import Tokens
from vitrim.methods.vid_tldr import foreground

CASES = sorted(path.stem for path in VID_TLDR.glob("*.safetensors"))
MERGED = 3e-6  # their merging is float32 whatever comes in


class Given(Attention):
    """An attention whose rows are what they are said to be, in place of the queries."""

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return self.q_BHND[:, :, start:stop]


def attention_of(oracle: Oracle) -> Given:
    rows_BHNN = oracle["input.attention"].double()
    return Given(rows_BHNN, rows_BHNN, rows_BHNN, scale=1.0)


def test_the_cases_in_this_repository_are_here() -> None:
    assert CASES == ["vidtldr_merge_sizes", "vidtldr_merge_unit_sizes"]


@pytest.mark.parametrize("name", CASES)
def test_foreground_scores_equal(name: str) -> None:
    oracle = oracles.read(VID_TLDR, name)
    assert (foreground(attention_of(oracle), 0) - oracle["output64.scores"]).abs().max() <= oracles.EXACT


@pytest.mark.parametrize("name", CASES)
def test_merged_tokens_and_sizes_equal(name: str) -> None:
    oracle = oracles.read(VID_TLDR, name)
    size = oracle.tensors.get("input.size")
    tokens = Tokens(oracle["input.x"].double(), 0, None if size is None else size.double().squeeze(-1), traced=True)
    method = vitrim.VidTLDR(r=[oracle.settings["r_used"]], layers=(0,))
    out = method.after_attention(0, tokens, attention_of(oracle))
    assert out.size_BN is not None
    assert out.source_BP is not None
    for got, what in ((out.x_BNC, "x"), (out.size_BN, "size")):
        assert (got - oracle[f"reference64.{what}"]).abs().max() <= oracles.EXACT
        assert (got - oracle[f"output.{what}"]).abs().max() <= MERGED
    background = oracle["output64.scores"] == 0
    gone = out.source_BP < 0
    assert gone.any()
    assert background[gone].all()
