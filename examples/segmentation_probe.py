"""How well do the patch features of a reduced model segment? A linear probe on maps from `vitrim.features`.

The probe predicts the class of each patch from its last features: background, or the class of the image's object. If
the background is dark, the image is its own ground truth: a patch belongs to the object if its mean brightness is
above --threshold. Half of the images train the probe (logistic regression by L-BFGS), the other half test it. For
each method and rule, the table gives

- mIoU: the mean over classes of intersection over union, with a probe trained on the reduced model's features,
- mIoU, kept probe: with the probe trained on the unreduced model, like a finished head that is not trained again,
- cosine: between each patch's features and those of the unreduced model, as the mean over all patches.

    python examples/segmentation_probe.py
    python examples/segmentation_probe.py --model YOUR_MODEL --data FOLDER --threshold 0.2

The result is deterministic. For images without a dark background, use --probe none, which gives only the cosine.
"""
# ruff: noqa: T201

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrim
from loading import apply, configurations, load, parser, table

FILLS = ("drift", "last", "nearest", "zero")
SHARES = ("offset", "token", "fill")


@torch.inference_mode()
def maps_of(model: nn.Module, batches: list[Tensor], **rules: str) -> tuple[Tensor, Tensor]:
    """Features of all patches of all images [N, H, W, C] in the last layer, and which of them were dropped."""
    found = [vitrim.features(model, x_BCHW, norm=True, **rules) for x_BCHW in batches]
    maps_NHWC = torch.cat([each.maps[0] for each in found]).permute(0, 2, 3, 1)
    return maps_NHWC, torch.cat([each.groups[0] for each in found])


def patch_classes(batches: list[Tensor], labels_N: Tensor, grid: torch.Size, threshold: float) -> Tensor:
    """Class of each patch: 0 background, the image's class plus 1 where the patch is bright. [N, H, W]"""
    images = torch.cat(batches).mean(dim=1, keepdim=True)
    images = (images - images.min()) / (images.max() - images.min())
    bright_NHW = F.adaptive_avg_pool2d(images, grid).squeeze(1) > threshold
    return torch.where(bright_NHW, labels_N[:, None, None] + 1, 0)


def train_probe(x_NC: Tensor, classes_N: Tensor, num_classes: int, steps: int) -> nn.Linear:
    """Multinomial logistic regression on standardised features."""
    probe = nn.Linear(x_NC.shape[1], num_classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    mean_C, std_C = x_NC.mean(dim=0), x_NC.std(dim=0) + 1e-6
    x_NC = (x_NC - mean_C) / std_C
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(x_NC), classes_N) + 1e-4 * probe.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():  # work the standardisation into the weights
        probe.weight /= std_C
        probe.bias -= probe.weight @ mean_C
    return probe


@torch.inference_mode()
def mean_iou(probe: nn.Linear, x_NC: Tensor, classes_N: Tensor) -> float:
    """Mean intersection over union of the classes, in percent."""
    predicted_N, num = probe(x_NC).argmax(dim=1), probe.out_features
    confusion = torch.bincount(classes_N * num + predicted_N, minlength=num * num).view(num, num)
    both = confusion.diag()
    return float(100 * (both / (confusion.sum(0) + confusion.sum(1) - both).clamp(min=1)).mean())


def rules_for(dropped: bool, shares: bool) -> list[dict[str, str]]:
    """The rules that make a difference to a method."""
    if dropped:
        return [{"fill": fill} for fill in FILLS]
    return [{"shared": shared} for shared in SHARES] if shares else [{}]


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--threshold", type=float, default=0.1, help="brightness, 0 to 1, of a patch of the object")
    arguments.add_argument("--probe", choices=("linear", "none"), default="linear")
    arguments.add_argument("--steps", type=int, default=30, help="iterations of L-BFGS")
    options = arguments.parse_args()
    model, batches, labels_N = load(options)
    whole_NHWC, _ = maps_of(model, batches)
    classes_NHW = patch_classes(batches, labels_N, whole_NHWC.shape[1:3], options.threshold)
    train, test = slice(0, None, 2), slice(1, None, 2)  # sorted by class, so both halves have all
    num_classes, kept = int(labels_N.max()) + 2, None
    rows = []
    for name, method in configurations(model, options).items():
        _, groups = maps_of(apply(model, method), batches[:1])
        shares = any(len(image.unique()) < image.numel() for image in groups)
        for rules in rules_for(bool((groups < 0).any()), shares):
            x_NHWC, _ = maps_of(model, batches, **rules)
            cells = [name, ", ".join(f"{rule}={value}" for rule, value in rules.items())]
            if options.probe == "linear":
                seen, classes = x_NHWC[train].flatten(0, 2), classes_NHW[train].flatten()
                probe = train_probe(seen.clone(), classes, num_classes, options.steps)
                kept = kept or probe
                there = x_NHWC[test].flatten(0, 2), classes_NHW[test].flatten()
                cells += [f"{mean_iou(each, *there):.1f}" for each in (probe, kept)]
            cells.append(f"{F.cosine_similarity(x_NHWC, whole_NHWC, dim=-1).mean():.3f}")
            rows.append(cells)
    probed = ["mIoU", "mIoU, kept probe"] if options.probe == "linear" else []
    print(table(["method", "rule", *probed, "cosine"], rows))


if __name__ == "__main__":
    main()
