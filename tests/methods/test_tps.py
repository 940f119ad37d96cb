"""TPS: what the predictor ranks last merges into what it resembles, what is learned, what is refused."""

from __future__ import annotations

import pytest
import torch

import vitrim
from conformance import families
from vitrim.core.predictor import Predictor
from vitrim.core.tokens import Tokens
from vitrim.methods.tps import squeeze


def test_each_of_the_rest_joins_the_one_that_it_resembles_with_the_weight_of_their_cosine() -> None:
    x_BNC = torch.tensor([[[5.0, 5.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [3.0, 4.0]]], dtype=torch.float64)
    keep_BK, rest_BM = torch.tensor([[0, 1]]), torch.tensor([[2, 3]])
    out = squeeze(Tokens(x_BNC, 1, traced=True), keep_BK, rest_BM, 0.5)
    own, alike, near = torch.tensor([1.0, 1.0 / 0.5, 0.8 / 0.5], dtype=torch.float64).exp()
    joined = own * x_BNC[0, 2] + alike * x_BNC[0, 3] + near * x_BNC[0, 4]
    torch.testing.assert_close(out.x_BNC[0, 2], joined / (own + alike + near), atol=1e-5, rtol=1e-5)
    assert torch.equal(out.x_BNC[0, :2], x_BNC[0, :2])
    assert out.source_BP is not None
    assert out.source_BP.tolist() == [[1, 2, 2, 2]]


def test_the_mean_of_the_predictor_is_that_of_the_live_patches() -> None:
    predictor = Predictor(8).double()
    x_BPC = torch.randn(1, 5, 8, dtype=torch.float64)
    live_BP = torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0]])
    some = predictor(x_BPC, live_BP)[:, [0, 1, 3]]
    torch.testing.assert_close(some, predictor(x_BPC[:, [0, 1, 3]]))
    torch.testing.assert_close(some.exp().sum(dim=2), torch.ones(1, 3, dtype=torch.float64))


def test_a_model_without_predictors_says_what_to_do() -> None:
    model = vitrim.reduce_tokens(families.small_model("vit"), "evit")
    model.blocks.set_method(vitrim.TPS())
    with pytest.raises(ValueError, match=r"block 1 has no predictor: .* train the model"):
        model(families.small_images("vit"))
    with pytest.raises(ValueError, match="temperature is a number above 0"):
        vitrim.TPS(temperature=0)
