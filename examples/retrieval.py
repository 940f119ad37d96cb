"""Do images of the same class still find each other? k-NN on embeddings from a reduced model.

Every image is a query against all others, by cosine similarity of embeddings from `vitrim.features`. The embedding is
the mean of the map in the last layer, or the class token if the model has one. For each method, the table gives

- k-NN: the share of images whose class wins a vote of the k nearest neighbours, weighted by similarity,
- nearest kept: the share of images that keep the same nearest neighbour as without reduction,
- searched whole: k-NN with the query from the reduced model and the others from the unreduced model, as with an index
  that was made before.

    python examples/retrieval.py
    python examples/retrieval.py --model deit_tiny_patch16_224 --checkpoint WEIGHTS --data IMAGENET_VAL

The result is deterministic.
"""
# ruff: noqa: T201

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrim
from loading import apply, configurations, load, parser, table


@torch.inference_mode()
def embeddings(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Unit vectors [N, C] by kind: the mean of the map, and the class token."""
    found = [vitrim.features(model, x_BCHW, norm=True) for x_BCHW in batches]
    kinds = {"mean of map": torch.cat([each.maps[0].mean(dim=(2, 3)) for each in found])}
    if found[0].prefix[0].shape[1] > 0:
        kinds["class token"] = torch.cat([each.prefix[0][:, 0] for each in found])
    return {kind: F.normalize(x_NC, dim=1) for kind, x_NC in kinds.items()}


def neighbours(queries_NC: Tensor, index_NC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and places of the k nearest others of each image: [N, k] each."""
    similar_NN = (queries_NC @ index_NC.T).fill_diagonal_(-2)
    return tuple(similar_NN.topk(k, dim=1))


def knn_accuracy(queries_NC: Tensor, index_NC: Tensor, labels_N: Tensor, k: int) -> float:
    """Percent of images whose class has most weight among the k nearest others."""
    similar_Nk, at_Nk = neighbours(queries_NC, index_NC, k)
    votes_NK = torch.zeros(len(labels_N), int(labels_N.max()) + 1)
    votes_NK.scatter_add_(1, labels_N[at_Nk], (similar_Nk / 0.07).exp())  # the temperature usual for k-NN on ViTs
    return float(100 * (votes_NK.argmax(dim=1) == labels_N).float().mean())


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--k", type=int, default=10, help="neighbours that vote")
    options = arguments.parse_args()
    model, batches, labels_N = load(options)
    if not 1 <= options.k < len(labels_N):
        raise SystemExit(f"--k is from 1 to {len(labels_N) - 1} for {len(labels_N)} images, not {options.k}.")
    whole = embeddings(model, batches)
    rows = []
    for name, method in configurations(model, options).items():
        reduced = embeddings(apply(model, method), batches)
        for kind, x_NC in reduced.items():
            same = neighbours(x_NC, x_NC, 1)[1] == neighbours(whole[kind], whole[kind], 1)[1]
            figures = (
                knn_accuracy(x_NC, x_NC, labels_N, options.k),
                float(100 * same.float().mean()),
                knn_accuracy(x_NC, whole[kind], labels_N, options.k),
            )
            rows.append([name, kind, *(f"{figure:.1f}" for figure in figures)])
    print(table(["method", "embedding", "k-NN", "nearest kept", "searched whole"], rows))


if __name__ == "__main__":
    main()
