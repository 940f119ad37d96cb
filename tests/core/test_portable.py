"""What is written for other runtimes is what eager computes, whatever they make of ties and of duplicate indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitrim
from vitrim.core import portable

BAT = "beyond_attentive"
KEEP = {"keep_rate": 0.5}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("evit", KEEP),
    ("evit", {**KEEP, "fuse": False, "scorer": "norm"}),
    ("token_mergence", KEEP),
    ("token_mergence", {**KEEP, "similarity": "l1"}),
    ("tome", {"r": 7}),
    ("random", KEEP),
    *((BAT, {**KEEP, "inattentive": way}) for way in ("cluster", "kmeans", "spatial", "conv", "mlp", "fuse", "drop")),
    (BAT, {**KEEP, "normalize": False}),
]
ADDS_UP = ("index_add", "index_put", "scatter_add", "scatter_reduce", "slice_scatter", "sort", "index_copy")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(portable, "writing", lambda: True)


def with_ties(num_tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-3, 4, (4, num_tokens), generator=generator).float()


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 70])
def test_a_written_order_is_the_stable_one(written: Callable[[], None], num_tokens: int) -> None:
    x = with_ties(num_tokens)
    expected = portable.order(x), portable.flagged_last(x > 0)
    written()
    assert torch.equal(portable.order(x), expected[0])
    assert torch.equal(portable.flagged_last(x > 0), expected[1])


def test_how_a_top_k_breaks_ties_does_not_show(written: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    x, top_k = with_ties(70), Tensor.topk
    expected = portable.order(x)

    def other_order(x: Tensor, k: int, **settings: Any) -> Any:
        top = top_k(x.flip(1), k, **settings)  # breaks ties the other way round
        return torch.return_types.topk((top.values, x.shape[1] - 1 - top.indices))

    written()
    monkeypatch.setattr(Tensor, "topk", other_order)
    assert torch.equal(portable.order(x), expected)


def test_sums_by_products_are_those_of_eager(written: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BNC, rows_BMC = (torch.randn(2, n, 4, generator=generator) for n in (9, 30))
    slot_BM, share_BM = torch.randint(9, (2, 30), generator=generator), torch.rand(2, 30, generator=generator)

    def steps() -> list[Tensor]:
        return [
            portable.add_at(x_BNC[:, :, 0].clone(), slot_BM, share_BM),
            portable.move_towards(x_BNC.clone(), slot_BM, rows_BMC, share_BM),
            portable.put_last(x_BNC.clone(), rows_BMC[:, :2]),
            portable.norm(x_BNC),
            portable.taxicab(x_BNC, rows_BMC),
        ]

    expected = steps()
    written()
    for got, wanted in zip(steps(), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_a_written_graph_adds_up_no_duplicates_and_sorts_nothing(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=2), name, **({"layers": (1,)} if name != "tome" else {}), **settings)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=0)
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert [name for name in used if any(step in name for step in ADDS_UP)] == []
