"""Token labeling (Jiang et al., NeurIPS 2021): every token has its own target.

Paper: https://arxiv.org/abs/2104.10858, eq. 2 to 4. Official code: https://github.com/zihangJiang/TokenLabeling
(Apache-2.0). The loss is the soft cross-entropy on the class output, plus dense_weight times its mean over the token
outputs. The paper's weight is 0.5. The default of the released code, and here, is 1.0.

Letters: B batch, K classes, P patches at the start, N patch tokens at the end, T classes listed per position of a label
map. The steps: targets of the images (`label_map_targets`, or `repeated` without maps); mixing by the model's box, and
the targets of merged tokens (`output_targets`); the loss (`token_labeling_loss`).

As in the official code: a map lists the scores of T classes, and all others score 0. Softmax comes after the crop.
Smoothing multiplies by 1 - s + s / K and adds s / K, so a target from a map sums to 1 + s / K. The class target alone
is mixed by the area of the box.
Different: inside the MixToken box, the targets of the patches are swapped and not the outputs. The loss is the same,
with its terms in another order, and this also works if tokens have left the grid.
New, since the paper reduces no tokens: the target of a merged token is the mean of its patches' targets, with equal
weights. Dropped patches have no term. All remaining tokens have the same weight.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..core.precision import at_least_fp32
from ..core.tokens import Tokens
from ..models.mix_token import Grid, box_mask, swap_box

MAP_SUFFIXES = (".safetensors", ".pt")


def find_label_map(folder: Path, image: Path) -> Path:
    """Return the label map of an image, such as n01440764/n01440764_10026.pt; FileNotFoundError if there is none.

    image: its path relative to the folder of images.
    """
    for suffix in MAP_SUFFIXES:
        if (path := (folder / image).with_suffix(suffix)).exists():
            return path
    raise FileNotFoundError(f"{image} has no label map: {folder / image.with_suffix('.pt')} does not exist.")


def read_label_map(path: Path) -> Tensor:
    """Read the scores and class numbers of one image, [2, T, H, W] in fp32. No code in the file is run."""
    map_2THW = _read_tensor(path)
    if map_2THW.ndim != 4 or map_2THW.shape[0] != 2:
        raise ValueError(
            f"{path} is not a label map: it must hold scores and class numbers, [2, classes listed, rows, columns], "
            f"not {list(map_2THW.shape)}."
        )
    return map_2THW.float()


def label_map_targets(
    map_B2THW: Tensor,
    crop_B4: Tensor,
    num_classes: int,
    grid: Grid,
    *,
    flip_B: Tensor | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the targets of the class output [B, K] and of the patches, row by row [B, P, K].

    crop_B4: x, y, width and height of each crop, as fractions of the image. flip_B: which crops were flipped left to
    right. grid: rows and columns of patches.
    """
    from torchvision.ops import roi_align

    score_BTHW, class_BTHW = map_B2THW[:, 0], map_B2THW[:, 1].long()
    if int(class_BTHW.max()) >= num_classes or int(class_BTHW.min()) < 0:
        raise ValueError(
            f"the label maps name class {int(class_BTHW.max())}, but the model has {num_classes} classes: use the maps "
            "of the data set that it is trained on."
        )
    B, _, H, W = score_BTHW.shape
    dense_BKHW = score_BTHW.new_zeros(B, num_classes, H, W).scatter_(1, class_BTHW, score_BTHW)
    corner_B4 = torch.cat([crop_B4[:, :2], crop_B4[:, :2] + crop_B4[:, 2:]], dim=1)
    box_B4 = corner_B4.to(dense_BKHW) * torch.tensor([W, H, W, H]).to(dense_BKHW) - 0.5
    crops = list(box_B4.unsqueeze(1))
    target_BK = roi_align(dense_BKHW, crops, (1, 1)).softmax(dim=1).flatten(1)
    target_BKHW = roi_align(dense_BKHW, crops, grid).softmax(dim=1)
    if flip_B is not None:
        target_BKHW = torch.where(flip_B[:, None, None, None], target_BKHW.flip(3), target_BKHW)
    target_BPK = target_BKHW.flatten(2).transpose(1, 2)
    off = smoothing / num_classes
    return target_BK * (1 - smoothing + off) + off, target_BPK * (1 - smoothing + off) + off


def image_targets(label_B: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return smoothed one-hot targets: [B, K]."""
    return one_hot(label_B.long(), num_classes).float() * (1 - smoothing) + smoothing / num_classes


def repeated(target_BK: Tensor, num_patches: int) -> Tensor:
    """Repeat the image's target for every patch, if there are no label maps: [B, P, K]."""
    return target_BK.unsqueeze(1).expand(-1, num_patches, -1)


def output_targets(
    target_BK: Tensor, target_BPK: Tensor, box: Tensor, grid: Grid, tokens: Tokens | None = None
) -> tuple[Tensor, Tensor]:
    """Return the targets [B, K] and [B, N, K] of LV-ViT's outputs, from those of the images and patches before mixing.

    box: the MixToken box [4] that the model returned. tokens: the traced tokens after the last block, None if no tokens
    were reduced.
    """
    target_BK, target_BPK = mix_box(target_BK, target_BPK, box, grid)
    if tokens is None or tokens.source_BP is None:
        return target_BK, target_BPK
    num_tokens = tokens.x_BNC.shape[1] - tokens.num_prefix
    return target_BK, reduced_targets(target_BPK, tokens.source_BP, num_tokens, tokens.num_prefix)


def mix_box(target_BK: Tensor, target_BPK: Tensor, box: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mix both targets by the MixToken box [4]: the class target by its area, the patches by their position."""
    mask_P = box_mask(box.to(target_BK.device), grid)
    if target_BPK.shape[1] != len(mask_P):
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} needs {len(mask_P)} targets, not {target_BPK.shape[1]}.")
    share = mask_P.to(target_BK.dtype).mean()
    return target_BK * (1 - share) + target_BK.flip(0) * share, swap_box(target_BPK, mask_P)


def reduced_targets(target_BPK: Tensor, source_BP: Tensor, num_tokens: int, num_prefix: int) -> Tensor:
    """Return the mean target of the patches in each token: [B, num_tokens, K].

    A token without patches gets zeros, which `token_labeling_loss` skips. source_BP: for each patch the index of its
    token, counting prefix tokens; -1 if dropped (`Tokens.source_BP`).
    """
    B, P, K = target_BPK.shape
    # An extra slot at the end collects the dropped patches.
    slot_BP = torch.where(source_BP < 0, num_tokens, source_BP - num_prefix)
    row = (slot_BP + torch.arange(B, device=slot_BP.device).unsqueeze(1) * (num_tokens + 1)).flatten()
    target_RK = at_least_fp32(target_BPK.reshape(B * P, K))  # bf16 cannot count beyond 256
    total = target_RK.new_zeros(B * (num_tokens + 1), K).index_add_(0, row, target_RK)
    count = target_RK.new_zeros(B * (num_tokens + 1)).index_add_(0, row, target_RK.new_ones(B * P))
    mean = (total / count.clamp(min=1).unsqueeze(1)).to(target_BPK.dtype)
    return mean.view(B, num_tokens + 1, K)[:, :num_tokens]


def token_labeling_loss(
    cls_BK: Tensor, aux_BNK: Tensor, target_BK: Tensor, target_BNK: Tensor, *, dense_weight: float = 1.0
) -> dict[str, Tensor]:
    """Return the two weighted terms of the loss, `class` and `dense`: scalars in at least fp32."""
    if aux_BNK.shape != target_BNK.shape:
        raise ValueError(
            f"token outputs of shape {list(aux_BNK.shape)} need targets of the same shape, not "
            f"{list(target_BNK.shape)}: with reduced tokens, pass traced tokens to output_targets()."
        )
    loss_BN = _soft_cross_entropy(aux_BNK, target_BNK)
    has_target = (target_BNK.amax(dim=2) > 0).sum().clamp(min=1)
    return {
        "class": _soft_cross_entropy(cls_BK, target_BK).mean(),
        "dense": dense_weight * (loss_BN.sum() / has_target),
    }


def _soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * at_least_fp32(logits).log_softmax(dim=-1)).sum(dim=-1)


def _read_tensor(path: Path) -> Tensor:
    if path.suffix not in MAP_SUFFIXES:
        raise ValueError(f"{path} is not a label map: its name must end in {' or '.join(MAP_SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            (content,) = load_file(path).values()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # both raise all kinds of errors for damaged files
        raise ValueError(f"{path} cannot be read as one tensor: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Tensor):
        raise ValueError(f"{path} is not a label map: it holds a {type(content).__name__}, not one tensor.")
    return content
