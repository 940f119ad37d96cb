"""BAT, Beyond Attentive Tokens: Incorporating Token Importance and Diversity (Long et al., CVPR 2023).

Paper: https://arxiv.org/abs/2211.11315. No official code is public, training logs are.
Patches are split by class attention (eq. 5). The inattentive ones form clusters by density peaks (eq. 6 and 7), and the
most similar attentive ones are matched. Each group becomes one token, weighted by importance.

    ρ_i = exp(-mean |x_i - x_j|² / C)    over the 5 nearest j: density (eq. 6)
    δ_i = min |x_i - x_j|    over the j with ρ_j > ρ_i; centres have the largest ρ_i δ_i (eq. 7)
    x_g = Σ a_i x_i / Σ a_i    over the patches i of group g; a: importance (eq. 8)

Our choices where the paper is silent or cannot be followed literally:
- Density is exp of minus the mean squared distance to the 5 nearest tokens, divided by the channels, as in the
  clustering code that the paper builds on. The sum over all tokens in eq. 6 underflows. Ties go to the lower index.
- Eq. 8 is a weighted sum. Here the weights sum to 1 in each group, so features keep their scale (normalize=False
  follows eq. 8 literally).
- An attentive token is matched with a more important one, so the most important tokens never disappear.
- The numbers of clusters and pairs are not published. The defaults give the token counts, and so the MACs, of the
  training logs.
- Table 4 has two learned alternatives ("sub-sampling"), described only as layers between attention and MLP that reduce
  the number of tokens. Here both act on the inattentive patches and form groups of neighbours, as many as clusters
  elsewhere. Their weights fit any number of patches and groups, so keep rate and resolution may change.
- conv: groups are neighbours in the sequence, as in spatial. A group's patches are averaged to three taps, on which a
  convolution over all channels works. Its stride equals its kernel size, so no patch flows into two tokens. It starts
  as the mean of the taps and ignores importance. Traced weights are those of the start.
- mlp: groups are neighbours in rank, as in average. A small MLP (LayerNorm, a quarter of the channels, GELU, one
  number) scales the importance of each patch by a factor in (0, 2). It starts at 1, so an untrained mlp is average.
"""

from .method import BeyondAttentive

__all__ = ["BeyondAttentive"]
