"""DTEM: Learning to Merge Tokens via Decoupled Embedding for Efficient Vision Transformers (Lee, Hong; NeurIPS 2024).

Paper: https://arxiv.org/abs/2412.10569. Official code: https://github.com/movinghoon/dtem (this file is written from
what it computes, and compared with OpenToMe's version, https://github.com/Westlake-AI/OpenToMe, Apache-2.0).
ToMe, but what tells which patches resemble each other is learned: a linear map of what the block's attention reads.

    m_i = W LN(x_i) + b,    pairs by cos(m_i, m_j)
    A = softmax(Q Kᵀ / √d + log s)    s: how many patches each key stands for
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i)    over the i that merge into j

    p_t = softmax(z / τ) over all edges,    z_ij += log(1 - Σ_j p_t,ij),    t = 1 ... r    soft grouping; z = cos / τ
    s_j' = s_j + Σ_i P_ij s_i,    s_i' = s_i (1 - Σ_j P_ij)    P: the sum of all p_t; soft merging, with means alike

The metric is a weight (`blocks.<layer>.method.metric.*`). With `learns` it is trained: r times an edge is drawn softly,
each patch keeps the part of its size that is not given away, and attention weighs keys by size. τ is 0.1, each patch
has its three nearest partners as edges, and shares of a patch that sum to more than 1 are brought to 1, as in the
official code. The metric reads its input without a gradient, so that the model may be frozen or not.
Different: after a block, the r patches that gave most away come last and take no further part, and the others are in
the order of inference, so that low temperatures lead to what inference does; the official code sorts by size.
Until trained weights are loaded, a number of the metric is the sum of the channels at one place in their heads.
"""

from .method import DTEM

__all__ = ["DTEM"]
