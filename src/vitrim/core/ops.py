"""Every way to reduce tokens. All keep sizes, positions, sources and weights in step with the features.

Indices such as `keep_BK` count patch tokens: 0 is the first token after the prefix. The prefix always stays, unchanged
and in front.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import packing, portable
from .joining import join
from .precision import matmul_without_autocast
from .rotary import NO_POSITION
from .tokens import AuxOutput, Tokens


def rank(score_BN: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Indices of the num_keep best patches, best first, and of the others. Ties go to the lower index."""
    order_BN = portable.order(score_BN)
    return order_BN[:, :num_keep], order_BN[:, num_keep:]


def take(x: Tensor, index_BK: Tensor) -> Tensor:
    """Rows of [B, N, ...] by one index list per image: [B, K, ...].

    index_select on flattened rows copies whole rows, while gather copies element by element. With a gradient, the rows
    must also be flattened for precision: along another axis, index_select would sum gradients in the dtype of x, and
    bf16 cannot count beyond 256.
    """
    B, N = x.shape[:2]
    if x.dim() == 2:
        return x.gather(1, index_BK)
    if B == 1 and not (torch.is_grad_enabled() or portable.is_traced_by_jit()):
        return x.index_select(1, index_BK[0])
    rows = portable.flat_rows(index_BK, N)
    return x.reshape(B * N, *x.shape[2:]).index_select(0, rows).view(B, index_BK.shape[1], *x.shape[2:])


def select_images(tokens: Tokens, index_S: Tensor) -> Tokens:
    """Select images of the batch, with everything that belongs to them: [B, N] -> [S, N]."""
    rows = index_S if tokens.lengths is None else _rows_of_images(tokens.lengths, index_S)
    chosen = tokens._replace(
        x_BNC=_select(tokens.x_BNC, rows, tokens.lengths),
        size_BN=None if tokens.size_BN is None else _select(tokens.size_BN, rows, tokens.lengths),
        source_BP=None if tokens.source_BP is None else tokens.source_BP[index_S],
        weight_BP=None if tokens.weight_BP is None else tokens.weight_BP[index_S],
        aux=None if tokens.aux is None else tuple(AuxOutput(each.method, each.value[index_S]) for each in tokens.aux),
        position_BK=None if tokens.position_BK is None else tokens.position_BK[index_S],
        live_BN=None if tokens.live_BN is None else tokens.live_BN[index_S],
        memory=tuple(value[index_S] for value in tokens.memory),
    )
    return chosen if tokens.lengths is None else arrange(chosen, tuple(tokens.lengths[i] for i in index_S.tolist()))


def arrange(tokens: Tokens, lengths: packing.Lengths) -> Tokens:
    """Pack the rows [1, T] of images of these lengths, or make them [B, N] if all lengths are equal."""
    B, N = len(lengths), max(lengths)
    position = tokens.position_BK
    tokens = tokens._replace(position_BK=None if position is None else position[:, : N - tokens.num_prefix])
    if min(lengths) < N:
        return tokens._replace(lengths=lengths)
    size = None if tokens.size_BN is None else tokens.size_BN.view(B, N)
    return tokens._replace(x_BNC=tokens.x_BNC.view(B, N, -1), size_BN=size, lengths=None)


def patch_sizes(tokens: Tokens) -> Tensor:
    """The sizes without the prefix, [B, N - prefix], padded with zeros if packed; ones if not counted yet."""
    size_BN = ones_like_size(tokens.x_BNC) if tokens.size_BN is None else tokens.size_BN
    padded_BN = size_BN if tokens.lengths is None else packing.pad(size_BN[0], tokens.lengths)
    return padded_BN[:, tokens.num_prefix :]


def ones_like_size(x_BNC: Tensor) -> Tensor:
    """A size of one for every token, [B, N], in at least fp32: bf16 cannot tell 300 from 301 patches."""
    return x_BNC.new_ones(x_BNC.shape[:2], dtype=torch.promote_types(x_BNC.dtype, torch.float32))


def keep(tokens: Tokens, keep_BK: Tensor) -> Tokens:
    """Keep the patches in keep_BK, in that order, and drop the others. [B, N] -> [B, prefix + K]."""
    kept = _take_with_prefix(tokens, keep_BK)
    if not tokens.traced:
        return kept
    return follow(kept, tokens, _slots(tokens, keep_BK), torch.ones_like(patch_sizes(tokens)))


def keep_first(tokens: Tokens, num_keep: int) -> Tokens:
    """Keep the first num_keep patches and drop the others, by a view. [B, N] -> [B, prefix + K]."""
    if tokens.traced or tokens.uses_rope or tokens.lengths is not None:
        keep_K = torch.arange(num_keep, device=tokens.x_BNC.device)
        return keep(tokens, keep_K.expand(len(tokens.num_tokens_B), -1))
    rows = slice(tokens.num_prefix + num_keep)
    size_BN = None if tokens.size_BN is None else tokens.size_BN[:, rows]
    return tokens._replace(x_BNC=tokens.x_BNC[:, rows], size_BN=size_BN)


def fuse(tokens: Tokens, keep_BK: Tensor, weight_BN: Tensor) -> Tokens:
    """Keep the patches in keep_BK and append the weighted sum of all others. [B, N] -> [B, prefix + K + 1].

    The weights are not normalised (EViT, eq. 3). The new token has no position (core/rotary.py).
    """
    K = keep_BK.shape[1]
    weight_BN = weight_BN.to(tokens.x_BNC.dtype)
    rest_weight_B1N = weight_BN.scatter(1, keep_BK, 0.0).unsqueeze(1)
    out = _take_with_prefix(tokens, keep_BK, room=1)
    out = out.with_features(portable.put_last(out.x_BNC, matmul_without_autocast(rest_weight_B1N, tokens.patches_BNC)))
    if tokens.size_BN is None and not tokens.traced:
        return out
    slot_BN = _slots(tokens, keep_BK, others=K)
    if out.size_BN is not None:
        rest_B1 = torch.where(slot_BN == K, patch_sizes(tokens), 0.0).sum(dim=1, keepdim=True)
        out = out._replace(size_BN=portable.put_last(out.size_BN, rest_B1))
    if not tokens.traced:
        return out
    return follow(out, tokens, slot_BN, torch.where(slot_BN == K, weight_BN.detach(), 1.0))


def merge(
    tokens: Tokens,
    keep_BK: Tensor,
    rest_BM: Tensor,
    slot_BM: Tensor,
    weight_BN: Tensor | None,
    *,
    how: str = "mean",
    joins_BM: Tensor | None = None,
    growth_BM: Tensor | None = None,
) -> Tokens:
    """Merge each patch in rest_BM into the kept patch at position slot_BM of keep_BK. [B, N] -> [B, prefix + K].

    weight_BN has a weight of at least 0 for every patch; None weighs patches by size, and counts sizes from here on.
    A token that receives others becomes the weighted mean of its group, the weighted sum, or the unweighted maximum in
    each channel, as `how` says, or the weighted mean at the largest norm of its group ("norm"; "old_norm" divides by
    the receiver's former norm, not by that of the mean). A token that receives none does not change. Sizes add up;
    growth_BM is what each of rest_BM adds, if not its own size, and sizes then stay above 0. Patches in neither list
    are dropped, and so are those of rest_BM for which joins_BM is false.
    """
    if (weight_BN is None or growth_BM is not None) and tokens.size_BN is None:
        tokens = tokens._replace(size_BN=ones_like_size(tokens.x_BNC))
    if rest_BM.shape[1] == 0:
        return keep(tokens, keep_BK)
    out = _take_with_prefix(tokens, keep_BK)
    if out.size_BN is not None:
        joining_BM = _of_those(joins_BM, patch_sizes(tokens).gather(1, rest_BM))
        added_BM = joining_BM if growth_BM is None else growth_BM
        size_BN = portable.add_at(out.size_BN, slot_BM + tokens.num_prefix, added_BM)
        out = out._replace(size_BN=size_BN if growth_BM is None else size_BN.clamp(min=torch.finfo(size_BN.dtype).tiny))
        total_BK = patch_sizes(out)
    if weight_BN is not None:
        joining_BM = _of_those(joins_BM, weight_BN.gather(1, rest_BM))
        total_BK = portable.add_at(weight_BN.gather(1, keep_BK), slot_BM, joining_BM)
    share_BM = joining_BM / total_BK.gather(1, slot_BM).clamp_min(torch.finfo(total_BK.dtype).tiny)
    rest_BMC = take(tokens.x_BNC, rest_BM + tokens.num_prefix)
    x_BNC, factor_BK = join(out, slot_BM, rest_BMC, share_BM, total_BK, how)
    out = out.with_features(x_BNC)
    if not tokens.traced:
        return out
    share_BM = share_BM.detach()  # a checkpointed block must save the same tensors when it runs again untraced
    slot_BN = _slots(tokens, keep_BK)
    joined_BM = slot_BM if joins_BM is None else torch.where(joins_BM, slot_BM, -1)
    own_BK = portable.add_at(torch.ones_like(total_BK), slot_BM, -share_BM)
    coefficient_BN = total_BK.new_zeros(slot_BN.shape).scatter(1, keep_BK, own_BK).scatter(1, rest_BM, share_BM)
    slot_BN = slot_BN.scatter(1, rest_BM, joined_BM)
    if factor_BK is not None:
        coefficient_BN = coefficient_BN * factor_BK.detach().gather(1, slot_BN.clamp(min=0))
    return follow(out, tokens, slot_BN, coefficient_BN)


def _of_those(joins_BM: Tensor | None, value_BM: Tensor) -> Tensor:
    """The values, 0 for what does not join."""
    return value_BM if joins_BM is None else torch.where(joins_BM, value_BM, 0.0)


def replace_last(tokens: Tokens, rows_BKC: Tensor) -> Tokens:
    """Overwrite the features of the last K tokens. The caller keeps traced weights consistent."""
    x_BNC = tokens.x_BNC
    kept_BNC = x_BNC[:, : x_BNC.shape[1] - rows_BKC.shape[1]]
    return tokens._replace(x_BNC=torch.cat([kept_BNC, rows_BKC.to(x_BNC.dtype)], dim=1))


def unmerge(tokens: Tokens) -> Tokens:
    """Give every patch the features of the token that holds it: [B, N] -> [B, prefix + P]. Needs traced tokens.

    Pooling the result weighs each token by the patches that it stands for. A dropped patch gets the mean of the others,
    which does not change their average.
    """
    if tokens.source_BP is None:
        return tokens
    dropped_BP1 = (tokens.source_BP < 0).unsqueeze(-1)
    x_BNC = tokens.padded_BNC
    x_BPC = take(x_BNC, tokens.source_BP.clamp(min=0)).masked_fill(dropped_BP1, 0.0)
    wide = torch.promote_types(x_BPC.dtype, torch.float32)  # a sum over thousands of patches overflows fp16
    mean_B1C = x_BPC.sum(dim=1, keepdim=True, dtype=wide) / (~dropped_BP1).sum(dim=1, keepdim=True).clamp(min=1)
    x_BPC = torch.where(dropped_BP1, mean_B1C.to(x_BPC.dtype), x_BPC)
    return Tokens(torch.cat([x_BNC[:, : tokens.num_prefix], x_BPC], dim=1), tokens.num_prefix)


def _rows_of_images(lengths: packing.Lengths, index_S: Tensor) -> Tensor:
    """The rows of some images among those of all."""
    rows = torch.split(torch.arange(sum(lengths), device=index_S.device), list(lengths))
    return torch.cat([rows[i] for i in index_S.tolist()])


def _select(x: Tensor, index: Tensor, lengths: packing.Lengths | None) -> Tensor:
    """Images of [B, N, ...], or rows of packed [1, T, ...]."""
    return x[index] if lengths is None else x.index_select(1, index)


def _take_with_prefix(tokens: Tokens, keep_BK: Tensor, *, room: int = 0) -> Tokens:
    """Copy the prefix and the kept patches. The caller sets the sources, and may write to the result.

    room: extra rows at the end, without position, for the caller to overwrite.
    """
    prefix = tokens.num_prefix
    index = F.pad(keep_BK + prefix, (prefix, room))
    if prefix > 1:
        index = index + F.pad(torch.arange(prefix, device=index.device), (0, index.shape[1] - prefix))
    size_BN, position_BK = tokens.size_BN, tokens.position_BK
    if size_BN is not None:
        size_BN = size_BN.gather(1, index)
    if tokens.uses_rope:
        position_BK = keep_BK if position_BK is None else position_BK.gather(1, keep_BK)
        position_BK = F.pad(position_BK, (0, room), value=NO_POSITION)
    return tokens._replace(x_BNC=take(tokens.x_BNC, index), size_BN=size_BN, position_BK=position_BK)


def _slots(tokens: Tokens, keep_BK: Tensor, others: int = -1) -> Tensor:
    """The position of each patch token in keep_BK, or `others` if it is not kept: [B, N - prefix]."""
    B, K = keep_BK.shape
    slot = torch.full((B, tokens.num_patches), others, dtype=torch.long, device=keep_BK.device)
    return slot.scatter(1, keep_BK, torch.arange(K, device=keep_BK.device).expand(B, -1))


def follow(out: Tokens, before: Tokens, slot_BN: Tensor, coefficient_BN: Tensor) -> Tokens:
    """Update the sources and weights of the original patches after one reduction."""
    if before.source_BP is None or before.weight_BP is None:
        source = torch.where(slot_BN < 0, -1, slot_BN + before.num_prefix)
        return out._replace(source_BP=source, weight_BP=torch.where(slot_BN < 0, 0.0, coefficient_BN))
    at_BP = (before.source_BP - before.num_prefix).clamp(min=0)
    slot_BP = slot_BN.gather(1, at_BP)
    gone = (before.source_BP < 0) | (slot_BP < 0)
    source = torch.where(gone, -1, slot_BP + before.num_prefix)
    weight = torch.where(gone, 0.0, before.weight_BP * coefficient_BN.gather(1, at_BP))
    return out._replace(source_BP=source, weight_BP=weight)
