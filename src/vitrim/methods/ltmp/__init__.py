"""LTMP: Learned Thresholds Token Merging and Pruning for Vision Transformers (Bonnaerens and Dambre, TMLR 2023).

Paper: https://arxiv.org/abs/2307.10780. Official code: https://github.com/Mxbonn/ltmp (no licence; this file is written
from the paper and from what the code computes). Every block has two thresholds. Patches merge with a partner that
they resemble more than the first says, and then those go that receive no more attention than the second says.

    i joins its best partner j if cos(k_i, k_j) > θ_merge    k: keys, mean over heads; pairs as in ToMe
    x_j = (s_j x_j + Σ s_i x_i) / (s_j + Σ s_i),    a_j = max a_i    over the i that join j
    j stays if a_j > θ_prune    a: attention received, mean over heads and queries; log s is added to the logits

    L = CE + 10 (r - target)²    training: r is the share of the blocks' multiply-adds that is left

Thresholds are weights (`blocks.<layer>.method.merge_threshold`, `.prune_threshold`) that start at the settings. With
`target` they are trained, by masks with a straight-through gradient, and all weights of the model are frozen.
As in the official code: inference, and the order that it leaves, patches at even places first; the temperature of the
masks, 0.1; a merge itself has no gradient by the threshold; pruning learns a thousand times more slowly.
Different: images of a batch keep different numbers and are packed, where the official code takes one image at a time;
an image from which all patches would go keeps the one that receives most attention.
In the official training a masked token goes on to be paired with others, and counts as a query in the attention that
others receive, so that its training and its inference are two functions. Here they are one: what is left is paired, and
scored, as if the masked tokens were gone. The official softmax has an eps of 1e-5 in training, and here there is none.
"""

from .method import LTMP

__all__ = ["LTMP"]
