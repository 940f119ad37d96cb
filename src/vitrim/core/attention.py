"""The attention of a block, and what a method may read of it. The N x N matrix is never formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import packing, portable
from .mask import Mask
from .precision import at_least_fp32, has_bf16_matmul, matmul_fp32

SCORE_CHUNK_SIZE = 64  # queries per chunk when rows of the attention matrix are only summed up
CHUNK_SIZE = 256  # queries per chunk of explicit products
ANY_LENGTH = 2**63 - 1


class Attention(NamedTuple):
    """Queries, keys and values of one block, [B, H, N, D] each.

    If tokens are packed (see `Tokens`), they are [1, H, T, D], each image attends to itself only, and `cls_row` and
    `received` are padded with zeros to the longest image.
    """

    q_BHND: Tensor
    k_BHND: Tensor
    v_BHND: Tensor
    scale: float
    bias: Tensor | None = None  # added to the logits of every query, [B, 1, 1, N]
    dropout: float = 0.0
    lengths: packing.Lengths | None = None  # tokens of each image, if packed
    input_BNC: Tensor | None = None  # what queries, keys and values were made of
    mlp_input_BNC: Tensor | None = None  # features before the MLP, for a method that reduces after it
    density: float = 1.0  # share of each head's entries, the largest, that are kept after the softmax; the rest is 0
    matrix_BHNN: Tensor | None = None  # attention that stands in for the softmax
    query_lengths: packing.Lengths | None = None  # queries of each image, if packed and fewer than keys
    mask: Mask | None = None  # how keys are weighed while tokens are masked in training, not removed

    def output(self, *, max_chunked_tokens: int = 0) -> Tensor:
        """Softmax(q k^T) v: [B, H, N, D].

        Uses the fused kernel or, up to `max_chunked_tokens` tokens, explicit products over chunks of queries.
        """
        if self.lengths is not None:
            # Joined as [1, T, H, D], the order in which the kernel writes, so that whole rows are copied.
            mixed = [image.output(max_chunked_tokens=max_chunked_tokens).transpose(1, 2) for image in self.images()]
            joined = torch.cat(mixed, dim=1)
            counts = self.query_lengths
            if counts is not None and min(counts) == max(counts):  # then they are not packed after this
                joined = joined.view(len(counts), counts[0], *joined.shape[2:])
            return joined.transpose(1, 2)
        if self.density < 1 or self.mask is not None or self.matrix_BHNN is not None:
            return self.rows(0, self.q_BHND.shape[2]).to(self.v_BHND.dtype) @ self.v_BHND
        if self.q_BHND.shape[2] <= max_chunked_tokens and not self.dropout:
            return self._chunked_output()
        if self.bias is not None and portable.writing() and torch.onnx.is_in_onnx_export():
            # torch would write ONNX's Attention, which onnxruntime refuses if one row of bias serves all queries.
            return self.rows(0, self.q_BHND.shape[2]).to(self.v_BHND.dtype) @ self.v_BHND
        return F.scaled_dot_product_attention(
            self.q_BHND, self.k_BHND, self.v_BHND, self.bias, dropout_p=self.dropout, scale=self.scale
        )

    def _chunked_output(self) -> Tensor:
        """Softmax(q k^T) v by explicit products, CHUNK_SIZE queries at a time."""
        B, H, M, D = self.q_BHND.shape
        N = self.k_BHND.shape[2]
        parts = [self.q_BHND, self.k_BHND, self.v_BHND]
        if not torch.compiler.is_compiling():
            parts = [part.contiguous() for part in parts]  # bmm would do it itself, more slowly
        q_XND, k_XND, v_XND = (part.reshape(B * H, -1, D) for part in parts)
        q_XND, k_XDN = q_XND * self.scale, k_XND.transpose(1, 2)
        bias_X1N = None if self.bias is None else self.bias.expand(B, H, 1, N).reshape(B * H, 1, N)
        mixed = []
        for q_XMD in [q_XND] if M <= CHUNK_SIZE else torch.split(q_XND, CHUNK_SIZE, dim=1):
            logits_XMN = torch.bmm(q_XMD, k_XDN) if bias_X1N is None else torch.baddbmm(bias_X1N, q_XMD, k_XDN)
            mixed.append(_mix(logits_XMN, v_XND))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)).view(B, H, M, D)

    def images(self) -> list[Attention]:
        """Each image's own attention if the tokens are packed: views of [1, H, n, D]."""
        assert self.lengths is not None
        counts = list(self.lengths)
        q = torch.split(self.q_BHND, counts if self.query_lengths is None else list(self.query_lengths), dim=2)
        k, v = (torch.split(part, counts, dim=2) for part in (self.k_BHND, self.v_BHND))
        bias = [None] * len(counts) if self.bias is None else torch.split(self.bias, counts, dim=3)
        parts = zip(q, k, v, bias, strict=True)
        return [Attention(q, k, v, self.scale, bias, self.dropout) for q, k, v, bias in parts]

    def rows(self, start: int, stop: int) -> Tensor:
        """Attention of the queries from start to stop - 1 to all keys, in at least fp32: [B, H, stop - start, N]."""
        if self.matrix_BHNN is not None:
            return self.matrix_BHNN[:, :, start:stop]
        if self.density < 1:
            return self._sparse_matrix()[:, :, start:stop]
        query = at_least_fp32(self.q_BHND[:, :, start:stop]) * self.scale
        logits = matmul_fp32(query, self.k_BHND.transpose(-2, -1))
        logits = logits if self.bias is None else logits + self.bias
        return logits.softmax(dim=-1) if self.mask is None else self.mask.softmax(logits, start)

    def cls_row(self) -> Tensor:
        """Attention of the class token, which is the first, to all tokens: [B, H, N]."""
        if self.density < 1 or self.mask is not None:
            return self.rows(0, 1).squeeze(2)
        if self.lengths is not None:
            return self._of_each(Attention.cls_row)
        query_BHD = at_least_fp32(self.q_BHND[:, :, 0]) * self.scale
        logits_BHN = _logits_of_one(query_BHD, self.k_BHND)
        return (logits_BHN if self.bias is None else logits_BHN + self.bias[:, :, 0]).softmax(dim=-1)

    def mean_key(self) -> Tensor:
        """Keys averaged over heads, in at least fp32: [B, N, D]."""
        # Head by head, because a mean over the strided axis is far slower.
        heads = at_least_fp32(self.k_BHND).unbind(dim=1)
        return reduce(torch.add, heads) / len(heads)

    def received(self) -> Tensor:
        """Mean attention that each token receives from all queries that are not masked: [B, H, N]."""
        if self.lengths is not None:
            return self._of_each(Attention.received)
        if self.mask is not None:
            live_BN = (self.mask.weight_BN.detach() > 0).to(self.mask.weight_BN.dtype)
            return (live_BN[:, None, None] @ self.rows(0, live_BN.shape[1])).squeeze(2) / live_BN.sum(1)[:, None, None]
        return torch.stack([rows.sum(dim=2) for rows in self.row_chunks()]).sum(dim=0) / self.q_BHND.shape[2]

    def row_chunks(self, start: int = 0) -> Iterator[Tensor]:
        """The rows of the queries from `start` on, in chunks: [B, H, M, N] each."""
        N = self.q_BHND.shape[2]
        step = min(SCORE_CHUNK_SIZE, (N + 1) // 2)
        if self.density < 1:
            yield from torch.split(self._sparse_matrix()[:, :, start:], step, dim=2)
            return
        copied = self._replace(k_BHND=at_least_fp32(self.k_BHND).contiguous())  # once, not for every chunk
        for i in range(start, N, step):
            yield copied.rows(i, min(i + step, N))

    def _sparse_matrix(self) -> Tensor:
        """The attention matrix without each head's smallest entries, not normalised again: [B, H, N, N].

        Of M entries, the int(M (1 - density))-th smallest is the least that is kept, as in GTP-ViT.
        """
        full_BHNN = self._replace(density=1.0).rows(0, self.q_BHND.shape[2])
        flat_BHX = full_BHNN.flatten(2)
        M = flat_BHX.shape[2]
        least_BH1 = flat_BHX.topk(min(M, M + 1 - int(M * (1 - self.density))), dim=-1).values[..., -1:]
        return torch.where(full_BHNN < least_BH1.unsqueeze(-1), 0.0, full_BHNN)

    def _of_each(self, compute: Callable[[Attention], Tensor]) -> Tensor:
        """One result per image, [1, H, n] each, padded with zeros: [B, H, N]."""
        assert self.lengths is not None
        rows_NH = torch.cat([compute(image)[0] for image in self.images()], dim=1).transpose(0, 1)
        return packing.pad(rows_NH, self.lengths).transpose(1, 2)


# Whether multiply-adds are being counted. The counter does not see sums of elementwise products.
COUNTED: ContextVar[bool] = ContextVar("vitrim_counted", default=False)


def max_chunked_tokens(x_BNC: Tensor) -> int:
    """The number of tokens up to which chunked attention is faster than the fused kernel.

    Measured for inference on CPUs (docs/log.md): any number in bf16 if the CPU multiplies bf16, and one chunk in
    compiled fp32.
    """
    if x_BNC.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_exporting():
        return 0
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BNC.dtype
    if dtype == torch.bfloat16:
        return ANY_LENGTH if has_bf16_matmul() else 0
    return CHUNK_SIZE if dtype == torch.float32 and torch.compiler.is_compiling() else 0


def _mix(logits_XMN: Tensor, v_XND: Tensor) -> Tensor:
    """Softmax(logits) v. Overwrites the logits.

    Compiled code divides by the sum of the weights last. Otherwise inductor would recognise attention and put the fused
    kernel in its place.
    """
    if not torch.compiler.is_compiling():
        return torch.bmm(torch.softmax(logits_XMN, dim=-1, out=logits_XMN), v_XND)
    wide_XMN = at_least_fp32(logits_XMN)
    weight_XMN = (wide_XMN - wide_XMN.amax(dim=-1, keepdim=True)).exp()
    total_XM1 = weight_XMN.sum(dim=-1, keepdim=True)
    return (torch.bmm(weight_XMN.to(v_XND.dtype), v_XND) / total_XM1).to(v_XND.dtype)


def _logits_of_one(query_BHD: Tensor, k_BHND: Tensor) -> Tensor:
    """One query of each head times all its keys: [B, H, N].

    Keys are strided views of a packed projection. On a CPU a product over all images and heads would copy them first,
    which takes longer than the product. So the product goes head by head. It is a sum of elementwise products if the
    keys have to be cast anyway, or if a compiler can fuse it with the softmax of a single image. The keys of a single
    image need no copy, and runtimes of exported graphs choose their own layout.
    """
    query_BH1D = query_BHD.unsqueeze(2)
    if k_BHND.device.type == "cpu" and not torch.compiler.is_exporting():
        single = k_BHND.shape[0] == 1
        if torch.compiler.is_compiling():
            summed = single or k_BHND.dtype != query_BHD.dtype
        else:
            summed = k_BHND.dtype != query_BHD.dtype and not COUNTED.get()
        if summed:
            return (query_BH1D * k_BHND).sum(dim=-1)
        if not single:
            heads = zip(query_BH1D.unbind(dim=1), k_BHND.unbind(dim=1), strict=True)
            return torch.cat([matmul_fp32(query, keys.transpose(-2, -1)) for query, keys in heads], dim=1)
    return matmul_fp32(query_BH1D, k_BHND.transpose(-2, -1)).squeeze(2)
