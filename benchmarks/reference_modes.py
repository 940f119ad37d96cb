"""Token reduction in the style of research code, written for comparison only.

There are two modes. Both run on the weights of a plain timm ViT with a class token, and compute the library's numbers:

- matrix: each block forms softmax(q k^T), reads scores from it, and gathers and scatters rows. The authors' code of
  EViT (https://arxiv.org/abs/2202.07800) and ToMe (https://arxiv.org/abs/2210.09461) works like this. TM
  (https://arxiv.org/abs/2306.04897) has no public code, and runs in the same way.
- masks: every token stays in the batch, and dropped ones are masked out of the attention. Input-adaptive models are
  trained (https://arxiv.org/abs/2106.02034), and sometimes measured, like this. It only works for dropping (EViT
  without fusion). The logits of the class token are those of removal.

B images, N tokens, C channels, H heads, D channels per head, K tokens kept, M others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

import vitrim
from vitrim.backbones.reader import read_backbone
from vitrim.core.method import Method


class State(NamedTuple):
    """The state passed from block to block."""

    x_BNC: Tensor
    size_BN: Tensor | None = None  # patches in each token (ToMe)
    live_BN: Tensor | None = None  # False for dropped tokens (masks)
    num_live: int = 0  # live patches of each image (masks)


class ReferenceMode(nn.Module):
    """A ViT whose blocks form the full attention matrix. Subclasses reduce tokens."""

    def __init__(self, model: VisionTransformer, method: Method):
        super().__init__()
        plain = isinstance(model, VisionTransformer) and all(type(block) is Block for block in model.blocks)
        if not plain or model.num_prefix_tokens != 1 or not model.has_class_token or model.global_pool != "token":
            raise ValueError("reference modes run plain timm Vision Transformers that read their one class token.")
        self.model = model
        self.method: Any = method.build(read_backbone(model).spec)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        model: Any = self.model
        x_BNC = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images_BCHW))))
        state = State(x_BNC, num_live=x_BNC.shape[1] - 1)
        for layer, block in enumerate(model.blocks):
            x_BNC, matrix_BHNN, k_BHND = attend(block, state, self.method.size_in_attention)
            state = self.reduce(layer, state._replace(x_BNC=x_BNC), matrix_BHNN, k_BHND)
            x_BNC = state.x_BNC + block.drop_path2(block.ls2(block.mlp(block.norm2(state.x_BNC))))
            state = state._replace(x_BNC=x_BNC)
        return model.forward_head(model.norm(state.x_BNC))

    def reduce(self, layer: int, state: State, matrix_BHNN: Tensor, k_BHND: Tensor) -> State:
        """Between attention and MLP; the base class keeps everything."""
        return state


def attend(block: Any, state: State, weigh: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x plus the attention residual, the attention matrix, and the keys. weigh: by the sizes of the keys."""
    x_BNC, attn = state.x_BNC, block.attn
    B, N, C = x_BNC.shape
    q, k, v = attn.qkv(block.norm1(x_BNC)).reshape(B, N, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    q, k = attn.q_norm(q), attn.k_norm(k)
    logits = (q @ k.transpose(-2, -1)) * attn.scale  # a pass over the matrix, as in the authors' code
    if weigh and state.size_BN is not None:
        logits = logits + state.size_BN.log()[:, None, None].to(logits.dtype)
    if state.live_BN is not None:
        logits = logits.masked_fill(~state.live_BN[:, None, None], -torch.inf)
    matrix = logits.softmax(dim=-1)
    mixed = attn.proj_drop(attn.proj(attn.norm((matrix @ v).transpose(1, 2).reshape(B, N, C))))
    return x_BNC + block.drop_path1(block.ls1(mixed)), matrix, k


class MatrixEViT(ReferenceMode):
    """EViT, with or without its fused token."""

    def reduce(self, layer: int, state: State, matrix_BHNN: Tensor, k_BHND: Tensor) -> State:
        x_BNC, patches = state.x_BNC, state.x_BNC[:, 1:]
        num_keep = self.method.num_attentive(layer, patches.shape[1])
        if num_keep == patches.shape[1]:
            return state
        score_BN, keep_BK = best(matrix_BHNN, num_keep)
        parts = [x_BNC[:, :1], rows(patches, keep_BK)]
        if self.method.fuse:
            rest_BM = others(keep_BK, patches.shape[1])
            weight_BM1 = score_BN.gather(1, rest_BM).unsqueeze(-1).to(x_BNC.dtype)
            parts.append((rows(patches, rest_BM) * weight_BM1).sum(dim=1, keepdim=True))
        return state._replace(x_BNC=torch.cat(parts, dim=1))


class MatrixTokenMergence(ReferenceMode):
    """TM: each dropped patch is merged into the kept one of highest cosine similarity, weighted by importance."""

    def reduce(self, layer: int, state: State, matrix_BHNN: Tensor, k_BHND: Tensor) -> State:
        x_BNC, patches = state.x_BNC, state.x_BNC[:, 1:]
        num_keep = self.method.num_attentive(layer, patches.shape[1])
        if num_keep == patches.shape[1]:
            return state
        score_BN, keep_BK = best(matrix_BHNN, num_keep)
        rest_BM = others(keep_BK, patches.shape[1])
        kept, rest = rows(patches, keep_BK), rows(patches, rest_BM)
        similarity_BMK = unit(rest) @ unit(kept).transpose(1, 2)
        joins_BMK = nn.functional.one_hot(similarity_BMK.argmax(dim=-1), num_keep).to(x_BNC.dtype)
        weight = score_BN.to(x_BNC.dtype).unsqueeze(-1)
        own_BK1, joining_BM1 = rows(weight, keep_BK), rows(weight, rest_BM)
        total_BK1 = own_BK1 + joins_BMK.transpose(1, 2) @ joining_BM1
        merged_BKC = (kept * own_BK1 + joins_BMK.transpose(1, 2) @ (rest * joining_BM1)) / total_BK1
        return state._replace(x_BNC=torch.cat([x_BNC[:, :1], merged_BKC], dim=1))


class MatrixToMe(ReferenceMode):
    """ToMe: the r most similar pairs between tokens at even and odd positions merge in every block."""

    def reduce(self, layer: int, state: State, matrix_BHNN: Tensor, k_BHND: Tensor) -> State:
        x_BNC = state.x_BNC
        r = self.method.num_removed(layer, x_BNC.shape[1] - 1)
        if r == 0:
            return state
        size_BN = x_BNC.new_ones(x_BNC.shape[:2]) if state.size_BN is None else state.size_BN
        metric = unit(k_BHND.mean(dim=1))
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        similarity[:, 0] = -torch.inf  # the class token is never merged
        best_BA, partner_BA = similarity.max(dim=-1)
        order_BA = best_BA.argsort(dim=1, descending=True, stable=True)
        taken_BR, stay_BA = order_BA[:, :r], order_BA[:, r:].sort(dim=1).values
        into_BR = partner_BA.gather(1, taken_BR)
        sizes = halve(size_BN.unsqueeze(-1), taken_BR, stay_BA, into_BR)
        merged = halve(x_BNC * size_BN.unsqueeze(-1), taken_BR, stay_BA, into_BR) / sizes
        return state._replace(x_BNC=merged, size_BN=sizes.squeeze(-1))


class MaskedEViT(ReferenceMode):
    """EViT without fusion, by masks: dropped tokens stay in the batch, but no token attends to them."""

    def reduce(self, layer: int, state: State, matrix_BHNN: Tensor, k_BHND: Tensor) -> State:
        num_keep = self.method.num_attentive(layer, state.num_live)
        if num_keep == state.num_live:
            return state
        score_BN = matrix_BHNN[:, :, 0, 1:].mean(dim=1)
        if state.live_BN is not None:
            score_BN = score_BN.masked_fill(~state.live_BN[:, 1:], -1.0)
        keep_BK = score_BN.topk(num_keep, dim=1).indices
        live_BN = torch.zeros(state.x_BNC.shape[:2], dtype=torch.bool, device=keep_BK.device)
        live_BN = live_BN.scatter(1, keep_BK + 1, True).index_fill(1, keep_BK.new_zeros(1), True)
        return state._replace(live_BN=live_BN, num_live=num_keep)


def reference_modes(model: VisionTransformer, method: Method) -> dict[str, ReferenceMode]:
    """Return the modes that exist for this method: 'matrix' and 'masks'.

    Raises ValueError for a model that no reference mode can run.
    """
    if type(method) is vitrim.EViT and method.scorer == "cls":
        masks = {} if method.fuse else {"masks": MaskedEViT(model, method)}
        return {"matrix": MatrixEViT(model, method), **masks}
    if type(method) is vitrim.TokenMergence and (method.scorer, method.similarity) == ("cls", "cosine"):
        return {"matrix": MatrixTokenMergence(model, method)}
    if type(method) is vitrim.ToMe:
        return {"matrix": MatrixToMe(model, method)}
    return {}


def best(matrix_BHNN: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Return the class attention of the patches, mean over heads, and the indices of the num_keep best."""
    score_BN = matrix_BHNN[:, :, 0, 1:].mean(dim=1)
    return score_BN, score_BN.topk(num_keep, dim=1).indices


def others(keep_BK: Tensor, num_patches: int) -> Tensor:
    """Return the patches not kept, [B, M], as authors do: set the kept positions to 0 and sort all again."""
    position_BN = torch.arange(num_patches, device=keep_BK.device).expand(len(keep_BK), -1)
    return position_BN.scatter(1, keep_BK, 0).sort(dim=1).values[:, keep_BK.shape[1] :]


def rows(x_BNC: Tensor, index_BK: Tensor) -> Tensor:
    """Gather rows: [B, N, C] -> [B, K, C]."""
    return x_BNC.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, x_BNC.shape[-1]))


def unit(x_BNC: Tensor) -> Tensor:
    """Normalise rows to length 1."""
    return x_BNC / x_BNC.norm(dim=-1, keepdim=True)


def halve(x_BNC: Tensor, taken_BR: Tensor, stay_BA: Tensor, into_BR: Tensor) -> Tensor:
    """Concatenate the even rows that stay, and the odd rows with the taken ones added."""
    even, odd = x_BNC[:, ::2], x_BNC[:, 1::2]
    index = into_BR.unsqueeze(-1).expand(-1, -1, x_BNC.shape[-1])
    return torch.cat([rows(even, stay_BA), odd.scatter_add(1, index, rows(even, taken_BR))], dim=1)
