"""Token labeling (Jiang et al., NeurIPS 2021): every token has a target of its own.

Paper: https://arxiv.org/abs/2104.10858, eq. 2 to 4. Official code: https://github.com/zihangJiang/TokenLabeling
(Apache-2.0). Loss = soft cross-entropy on the class output + dense_weight * mean over tokens of the same on the token
outputs. The paper's weight is 0.5, the released code's default 1.0; ours is the code's.

Letters: B batch, K classes, P patches at the start, N patch tokens at the end, T classes listed per place of a label
map. The order of work: targets of the images (`label_map_targets`, or `repeated` where there are no maps), `with_truth`
and `mix_images` where wanted, then the box that the model returned (`mix_box`), then `reduced_targets` if tokens were
reduced, then `token_labeling_loss`. `loss_of_output` does the last three.

As in the official code: maps list the scores of T classes, the others score 0; softmax comes after the crop; smoothing
multiplies by 1 - s + s / K and adds s / K, so a target from a map sums to 1 + s / K; only the class target is mixed by
the area of the box.
Different: the targets of patches inside the MixToken box become the partner's, instead of pasting the outputs back:
the same loss, a permutation of its terms, and it works where tokens have left the grid. New, as the paper reduces
no tokens: a token that holds several patches has the mean of their targets, each patch counting the same, whatever
weight the method gave its features; patches that were dropped have no term; each remaining token counts the same.
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
    """The map of an image, in the same place of its own folder: n01440764/n01440764_10026.pt, or .safetensors.

    image: relative to the folder of images. FileNotFoundError where there is none.
    """
    for suffix in MAP_SUFFIXES:
        if (path := (folder / image).with_suffix(suffix)).exists():
            return path
    raise FileNotFoundError(f"{image} has no label map in {folder}: wanted {image.with_suffix('.pt')} there.")


def read_label_map(path: Path) -> Tensor:
    """Scores and class numbers of one image, [2, T, H, W] in fp32, as released. Nothing is unpickled beyond tensors."""
    map_2THW = _read_tensor(path)
    if map_2THW.ndim != 4 or map_2THW.shape[0] != 2:
        raise ValueError(
            f"{path} is no label map: wanted scores and class numbers, [2, classes listed, rows, columns], and it "
            f"holds {list(map_2THW.shape)}."
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
    """Targets of the class output [B, K] and of the patches, row by row [B, P, K].

    crop_B4: x, y, width and height of the crop that was trained on, as fractions of the image. flip_B: which crops
    were mirrored left to right. grid: rows and columns of patches.
    """
    from torchvision.ops import roi_align

    score_BTHW, class_BTHW = map_B2THW[:, 0], map_B2THW[:, 1].long()
    if int(class_BTHW.max()) >= num_classes or int(class_BTHW.min()) < 0:
        raise ValueError(
            f"the label maps name class {int(class_BTHW.max())}, and the model has {num_classes}: use the maps of the "
            "data set that it is trained on."
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
    """Smoothed one-hot targets of class numbers: [B, K]."""
    return one_hot(label_B.long(), num_classes).float() * (1 - smoothing) + smoothing / num_classes


def repeated(target_BK: Tensor, num_patches: int) -> Tensor:
    """The image's target for every patch, where there are no label maps: [B, P, K]."""
    return target_BK.unsqueeze(1).expand(-1, num_patches, -1)


def mix_images(target: Tensor, lam: float) -> Tensor:
    """Targets of images that were mixed with the reversed batch, whose share is 1 - lam: [B, ...]."""
    return lam * target + (1 - lam) * target.flip(0)


def with_truth(target_BK: Tensor, truth_BK: Tensor) -> Tensor:
    """The official `ground_truth` option: the truth has a share of 0.5 where the target is right, of 0.1 elsewhere."""
    right_B1 = target_BK.argmax(dim=1, keepdim=True) == truth_BK.argmax(dim=1, keepdim=True)
    share_B1 = 0.9 - 0.4 * right_B1.to(target_BK.dtype)
    return target_BK * share_B1 + truth_BK * (1 - share_B1)


def mix_box(target_BK: Tensor, target_BPK: Tensor, box: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Both targets under the MixToken box [4] of the forward: the class's by area, a patch's by where it lies."""
    mask_P = box_mask(box.to(target_BK.device), grid)
    if target_BPK.shape[1] != len(mask_P):
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} needs {len(mask_P)} targets, not {target_BPK.shape[1]}.")
    share = mask_P.to(target_BK.dtype).mean()
    return target_BK * (1 - share) + target_BK.flip(0) * share, swap_box(target_BPK, mask_P)


def reduced_targets(target_BPK: Tensor, source_BP: Tensor, num_tokens: int, num_prefix: int) -> Tensor:
    """Targets of the patch tokens that are left: the mean of the patches each holds, [B, num_tokens, K].

    source_BP: the index of the token that holds each patch, prefix included, -1 dropped (`Tokens.source_BP`).
    A token that holds no patch gets zeros, which `token_labeling_loss` leaves out.
    """
    B, P, K = target_BPK.shape
    # The slot after the last takes what was dropped.
    slot_BP = torch.where(source_BP < 0, num_tokens, source_BP - num_prefix)
    row = (slot_BP + torch.arange(B, device=slot_BP.device).unsqueeze(1) * (num_tokens + 1)).flatten()
    target_RK = at_least_fp32(target_BPK.reshape(B * P, K))  # bf16 stops counting at 256
    total = target_RK.new_zeros(B * (num_tokens + 1), K).index_add_(0, row, target_RK)
    count = target_RK.new_zeros(B * (num_tokens + 1)).index_add_(0, row, target_RK.new_ones(B * P))
    mean = (total / count.clamp(min=1).unsqueeze(1)).to(target_BPK.dtype)
    return mean.view(B, num_tokens + 1, K)[:, :num_tokens]


def token_labeling_loss(
    cls_BK: Tensor, aux_BNK: Tensor, target_BK: Tensor, target_BNK: Tensor, *, dense_weight: float = 1.0
) -> dict[str, Tensor]:
    """The two weighted terms of the loss, scalars in at least fp32, to be added: `class` and `dense`."""
    if aux_BNK.shape != target_BNK.shape:
        raise ValueError(
            f"token outputs of shape {list(aux_BNK.shape)} need targets of the same, not {list(target_BNK.shape)}: "
            "with reduced tokens, use reduced_targets(), which needs collect_outputs(outputs, traced=True)."
        )
    loss_BN = _soft_cross_entropy(aux_BNK, target_BNK)
    has_target = (target_BNK.amax(dim=2) > 0).sum().clamp(min=1)
    return {
        "class": _soft_cross_entropy(cls_BK, target_BK).mean(),
        "dense": dense_weight * (loss_BN.sum() / has_target),
    }


def loss_of_output(
    output: tuple[Tensor, Tensor, Tensor],
    target_BK: Tensor,
    target_BPK: Tensor,
    grid: Grid,
    tokens: Tokens | None = None,
    *,
    dense_weight: float = 1.0,
) -> dict[str, Tensor]:
    """The terms of the loss from what LV-ViT returns in training with return_dense.

    target_BK, target_BPK: of the images, before the MixToken box. tokens: what
    `TokenStack.collect_outputs(outputs, traced=True)` gave, None for a model that carries all its tokens.
    """
    cls_BK, aux_BNK, box = output
    target_BK, target_BNK = mix_box(target_BK, target_BPK, box, grid)
    if tokens is not None and tokens.source_BP is not None:
        target_BNK = reduced_targets(target_BNK, tokens.source_BP, aux_BNK.shape[1], tokens.num_prefix)
    return token_labeling_loss(cls_BK, aux_BNK, target_BK, target_BNK, dense_weight=dense_weight)


def _soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Over the last axis."""
    return -(target * at_least_fp32(logits).log_softmax(dim=-1)).sum(dim=-1)


def _read_tensor(path: Path) -> Tensor:
    if path.suffix not in MAP_SUFFIXES:
        raise ValueError(f"{path} is no label map: wanted a file ending in {' or '.join(MAP_SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            (content,) = load_file(path).values()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # both raise whatever the bytes lead them to
        raise ValueError(f"{path} cannot be read as one tensor: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Tensor):
        raise ValueError(f"{path} holds a {type(content).__name__}, and a label map is one tensor.")
    return content
