"""DiffRate: Differentiable Compression Rate for Efficient Vision Transformers (Chen et al., ICCV 2023).

Paper: https://arxiv.org/abs/2305.17997. Official code: https://github.com/OpenGVLab/DiffRate (no licence; this file is
written from the paper and from what the code computes). Every block first drops the patches to which the class token
attends least, down to one count, and then merges the least attended of the rest into the others, down to a second. The
paper learns both counts for every block. Here they are settings: the published ones go by name, and `target` learns
others.

    c(i) = argmax_j cos(x_i, x_j)    of the more attended patches j, for each patch i to be merged
    x_j = (x_j + Σ x_i) / (1 + |{i}|)    over the i with c(i) = j
    s_j = s_j + Σ s_i cos(x_i, x_j)    the size, which attention adds as log s
    kept = (published / published before)^strength    of the patches that enter a step
    L = CE + 5 (GMACs - target)²    while counts are learned, with all weights of the model frozen

As in the official code: features x after the attention residual are compared; merged ones are plain means, whatever
their sizes; sizes grow by the similarity, so that they are fractions; what is dropped takes its size along.
Different: blocks that remove nothing leave the order of the tokens alone, which changes no output. A size that would
not be positive, where all that merged is the opposite of its token, is a tiny one, not the logarithm of nothing.
Sizes take no gradient, so that training runs the fused attention kernel.
The published schedules are for 12 blocks, 196 patches and a class token. `strength` bends them, models of another depth
or resolution take them in proportion, and where the head reads patches, the last block keeps what the one before does.

The search masks tokens, as in the official code: its softmax adds 1e-6, a masked token still sees itself, each patch
that merges adds at least 1 to a size, the first block keeps all, and a count larger than what is there does nothing.
The cost is that of the blocks as `vitrim macs` counts it; the official code counts one more patch in the embedding.
The official option that leaves the cost out of the first epoch is not here.
"""

from .method import DiffRate

__all__ = ["DiffRate"]
