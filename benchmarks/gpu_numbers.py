"""Whether a device keeps the tokens that the CPU keeps, and how far its outputs are off."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import vitrim
from vitrim.measure.benchmark import DTYPES
from vitrim.models.embedded import MODEL_NAME

from .experiment import Cell, Experiment
from .export import moderate
from .export_stability import some_images
from .gpu_shared import place, static_methods, tried

ABOUT = """Whether a device keeps the tokens that the CPU keeps, and how far its outputs are off.

The packaged model on its own test images, in each dtype, against the CPU in fp32. other_tokens: images where a patch
shares its token with other patches after some block. In fp16 and bf16, nearly equal scores may tip. difference:
largest of the logits, relative to the largest logit, over images with the same tokens. other_answers: images with
another class.
"""
COLUMNS = dict.fromkeys(("images", "other_tokens", "other_answers", "difference"), "")
FP32 = 1e-3  # largest relative difference in fp32


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    yield from tried(COLUMNS, compared(cell))


def compared(cell: Cell) -> Iterator[dict[str, object]]:
    images = some_images(MODEL_NAME, cell.images)
    model = vitrim.load_model(MODEL_NAME)
    if cell.method != "unreduced":
        vitrim.reduce_tokens(model, cell.method, **moderate(cell.method))
    expected, tokens = run(model, images)
    got, own_tokens = run(model.to(cell.device, DTYPES[cell.dtype]), images)
    other_I = (tokens != own_tokens).any(dim=1)
    difference_I = (expected - got).abs().amax(dim=1) / expected.abs().max()
    yield {
        "images": len(images),
        "other_tokens": int(other_I.sum()),
        "other_answers": int((expected.argmax(dim=1) != got.argmax(dim=1)).sum()),
        "difference": f"{difference_I[~other_I].max():.1e}" if not other_I.all() else "",
    }


@torch.inference_mode()
def run(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, [I, K], and what shares a token after every reducing block, [I, blocks * P], on the CPU."""
    parameter = next(model.parameters())
    x_BCHW = images.to(parameter.device, parameter.dtype)
    if vitrim.method_of(model) is None:
        return model(x_BCHW).float().cpu(), torch.zeros(len(images), 1)
    with vitrim.trace(model) as traced:
        logits = model(x_BCHW)
    return logits.float().cpu(), torch.cat([companions(layer.source_BP.cpu()) for layer in traced.layers], dim=1)


def companions(source_BP: Tensor) -> Tensor:
    """The first patch in the token of each patch, -1 if dropped: the same whatever the order of the tokens. [B, P]"""
    held_BP = source_BP.clamp(min=0)
    patch_BP = torch.arange(source_BP.shape[1]).expand_as(source_BP)
    first_BN = torch.full_like(source_BP, source_BP.shape[1]).scatter_reduce(1, held_BP, patch_BP, "amin")
    return first_BN.gather(1, held_BP).where(source_BP >= 0, -1)


def holds(row: dict[str, str]) -> bool:
    """In fp32, the outputs must be equal up to rounding. Nothing is asked of what could not run."""
    return row["dtype"] != "fp32" or not row["difference"] or float(row["difference"]) <= FP32


EXPERIMENT = Experiment(
    about=ABOUT,
    file="gpu_numbers_{on}",
    axes={"dtype": ("fp32", "fp16", "bf16"), "method": ("unreduced", *static_methods())},
    options={"device": "cuda", "images": 64},
    choices={"dtype": DTYPES, "device": ("cpu", "cuda")},
    place=place,
    holds=holds,
    measure=measure,
)
