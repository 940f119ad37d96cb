"""One loop over batches serves accuracy, exits and class attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vitrim.measure.batches import Batch
from vitrim.measure.forwards import dtype_of, finite, over_batches

NONE_LEFT = Batch(torch.empty(0), torch.empty(0, dtype=torch.long), ("worse.png",))


def test_each_batch_with_images_is_one_step_in_the_models_type_and_mode() -> None:
    model, told = nn.Linear(4, 2).to(torch.bfloat16).train(), []

    def step(x_BC: Tensor, _: Tensor) -> int:
        assert not model.training
        assert torch.is_inference_mode_enabled()
        assert x_BC.dtype == torch.bfloat16
        return len(model(x_BC))

    batches = [Batch(torch.zeros(3, 4), torch.zeros(3), ("bad.png",)), NONE_LEFT, (torch.zeros(2, 4), torch.zeros(2))]
    done = over_batches(model, batches, step, progress=lambda *numbers: told.append(numbers))
    assert (done.found, done.num_images, done.skipped) == ([3, 2], 5, ("bad.png", "worse.png"))
    assert told == [(4, 7), (5, 7), (7, 7)]
    assert model.training


def test_autocast_acts_where_it_is_asked_for() -> None:
    model = nn.Linear(4, 2)
    batches = [(torch.zeros(3, 4), torch.zeros(3))]
    for amp, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        assert over_batches(model, batches, lambda x_BC, _: model(x_BC).dtype, amp=amp).found == [dtype]


def test_a_model_without_floating_weights_takes_images_as_they_are() -> None:
    assert dtype_of(nn.Identity(), torch.zeros(1, dtype=torch.float16)) == torch.float16
    assert dtype_of(nn.Linear(1, 1), torch.zeros(1, dtype=torch.float16)) == torch.float32


def test_a_device_without_numbers_is_none_to_measure_on() -> None:
    with pytest.raises(ValueError, match="'meta' cannot be used"):
        over_batches(nn.Linear(4, 2), [(torch.zeros(3, 4), torch.zeros(3))], lambda *_: None, device="meta")


def test_logits_that_are_no_numbers_are_refused() -> None:
    assert finite(torch.ones(2)).tolist() == [1, 1]
    with pytest.raises(ValueError, match="not finite"):
        finite(torch.tensor([1.0, torch.inf]))
