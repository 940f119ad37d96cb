"""BAT, Beyond Attentive Tokens: Incorporating Token Importance and Diversity (Long et al., CVPR 2023).

Paper: https://arxiv.org/abs/2211.11315. No official code is public, training logs are.
A decoupler splits the patches by class attention (eq. 5). Inattentive ones are grouped by density-peak clustering
(eq. 6 and 7), the most similar attentive ones are matched, and each group becomes one token weighted by importance.

    ρ_i = exp(-mean |x_i - x_j|² / C)    over the 5 nearest j: density (eq. 6)
    δ_i = min |x_i - x_j|    over the j with ρ_j > ρ_i; centres have the largest ρ_i δ_i (eq. 7)
    x_g = Σ a_i x_i / Σ a_i    over the patches i of group g; a: importance (eq. 8)

Readings of ours where the paper is silent or cannot be taken literally:
- Density is exp of minus the mean squared distance to the 5 nearest tokens, over the channels, as in the clustering
  code that the paper builds on: the sum over all tokens of eq. 6 underflows. Ties go to the lower index.
- Eq. 8 is a weighted sum; weights that sum to 1 in each group keep the features at the scale that the next blocks
  know (normalize=False is eq. 8 to the letter).
- An attentive token is matched with a more important one, so that the most important tokens never vanish.
- How many clusters and pairs there are is not published: the defaults make the token counts, hence the MACs, those
  of the training logs.
- Of the two learned alternatives of Table 4 ("sub-sampling") the paper says that they are layers between attention
  and MLP that decrease the number of tokens. Here both act on the inattentive patches, form as many groups of
  neighbours as the other strategies form clusters, and hold weights that fit any number of patches and of groups, so
  that keep rate and resolution may change.
- conv: groups in the sequence, as in spatial. A group's patches are averaged to three taps, first to last, on which
  a convolution over all channels works, its stride as long as its kernel, so that no patch flows into two tokens. It
  starts as the mean of the taps; importance takes no part. The weights that are traced are those of the start.
- mlp: groups in rank, as in average. A small MLP (LayerNorm, a quarter of the channels, GELU, one number) scales the
  importance of each patch by a factor in (0, 2). It starts as 1: untrained, mlp is average.
"""

from .method import BeyondAttentive

__all__ = ["BeyondAttentive"]
