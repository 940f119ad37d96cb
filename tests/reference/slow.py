"""A second reading of the papers: a plain ViT in NumPy, image by image, and each reduction written as loops.

Nothing here comes from the library. `Step` functions take what one block knows after its attention, and return the
tokens that go on and how many patches each stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import erf


class Seen(NamedTuple):
    """One image in one block, after the attention residual. Row 0 is the class token."""

    layer: int
    depth: int
    x: Any  # [N, C]
    size: Any  # [N]
    attention: Any  # [H, N, N]
    keys: Any  # [N, D], mean over heads
    values: Any  # [N, C], all heads
    read: Any  # [N, C], what the attention was computed of
    memory: dict[str, Any]


Step = Callable[[Seen], tuple[Any, Any]]


def norm(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def stay(seen: Seen) -> tuple[Any, Any]:
    return seen.x, seen.size


def forward(
    model: Any,
    images: Any,
    step: Step = stay,
    *,
    prop_attn: bool = True,
    density: float = 1.0,
    shift: dict[int, float] | None = None,
) -> Any:
    """The logits of timm's plain VisionTransformer in float64, with `step` in every block.

    shift: share of the patches to keep after the MLP of a block, those that the MLP changes most.
    """
    state = {key: value.double().numpy() for key, value in model.state_dict().items() if ".method." not in key}
    return np.stack(
        [_image(model, state, image, step, prop_attn, density, shift or {}) for image in images.double().numpy()]
    )


def _image(model: Any, state: Any, image: Any, step: Step, prop_attn: bool, density: float, shift: Any) -> Any:
    patch = model.patch_embed.patch_size[0]
    rows, columns = (side // patch for side in image.shape[1:])
    kernel = state["patch_embed.proj.weight"].reshape(model.embed_dim, -1)
    tokens = [state["cls_token"][0, 0]]
    for row in range(rows):
        for column in range(columns):
            part = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch].reshape(-1)
            tokens.append(kernel @ part + state["patch_embed.proj.bias"])
    x = np.stack(tokens) + state["pos_embed"][0]
    size, depth, heads, memory = np.ones(len(x)), len(model.blocks), model.blocks[0].attn.num_heads, {"embedded": x[1:]}
    for layer in range(depth):
        own = {
            key.removeprefix(f"blocks.{layer}."): v for key, v in state.items() if key.startswith(f"blocks.{layer}.")
        }
        read = norm(x, own["norm1.weight"], own["norm1.bias"])
        qkv = read @ own["attn.qkv.weight"].T + own["attn.qkv.bias"]
        q, k, v = qkv.reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
        logits = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        if prop_attn:
            logits = logits + np.log(size)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        if density < 1:
            for head in weights:
                ranked = np.sort(head.reshape(-1))
                head[head < ranked[max(0, int(ranked.size * (1 - density)) - 1)]] = 0
        values = v.transpose(1, 0, 2).reshape(len(x), -1)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + mixed @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        x, size = step(Seen(layer, depth, x, size, weights, k.mean(0), values, read, memory))
        hidden = norm(x, own["norm2.weight"], own["norm2.bias"]) @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        branch = hidden @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        if layer in shift:
            moved = ((branch - x)[1:] ** 2).sum(1)
            kept = sorted(range(len(moved)), key=lambda i: -moved[i])[: math.ceil(shift[layer] * len(moved))]
            order = [0, *(1 + i for i in kept)]
            x, branch, size = x[order], branch[order], size[order]
        x = x + branch
    x = norm(x, state["norm.weight"], state["norm.bias"])
    return state["head.weight"] @ x[0] + state["head.bias"]


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def best_pairs(metric: Any) -> list[tuple[float, int, int]]:
    """Each token at an even place but the class token, with its best partner at an odd place, best pair first."""
    found = []
    for a in range(2, len(metric), 2):
        partner = max(range(1, len(metric), 2), key=lambda b, a=a: cosine(metric[a], metric[b]))
        found.append((cosine(metric[a], metric[partner]), a, partner))
    return sorted(found, key=lambda pair: -pair[0])


def bipartite_order(num_tokens: int, gone: set[int]) -> list[int]:
    """What is left: the class token, even places, odd places."""
    left = [i for i in range(num_tokens) if i not in gone]
    return [0, *(i for i in left if i % 2 == 0 and i > 0), *(i for i in left if i % 2)]


def weighted(seen: Seen, groups: dict[int, list[int]]) -> tuple[Any, Any]:
    """Features and sizes in which each key of `groups` is the mean of its members by size."""
    x, size = seen.x.copy(), seen.size.copy()
    for target, members in groups.items():
        size[target] = sum(seen.size[i] for i in members)
        x[target] = sum(seen.size[i] * seen.x[i] for i in members) / size[target]
    return x, size


def grouped(pairs: list[tuple[int, int]]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for a, b in pairs:
        groups.setdefault(b, [b]).append(a)
    return groups


def tome(seen: Seen, r: int, metric: Any = None) -> tuple[Any, Any]:
    pairs = [(a, b) for _, a, b in best_pairs(seen.keys if metric is None else metric)[:r]]
    x, size = weighted(seen, grouped(pairs))
    order = bipartite_order(len(x), {a for a, _ in pairs})
    return x[order], size[order]


def dtem(seen: Seen, r: int, weights: Any) -> tuple[Any, Any]:
    weight, bias = (value.double().numpy() for value in weights[seen.layer])
    return tome(seen, r, seen.read @ weight.T + bias)


def ppt(seen: Seen, r: int, threshold: float) -> tuple[Any, Any]:
    score = np.array(
        [
            seen.attention[:, 0, i].mean() * math.sqrt(float(seen.values[i] @ seen.values[i]))
            for i in range(1, len(seen.x))
        ]
    )
    score /= score.sum()
    if ((score - score.mean()) ** 2).sum() / (len(score) - 1) < threshold:
        return tome(seen, r)
    order = [0, *(1 + i for i in sorted(range(len(score)), key=lambda i: -score[i])[: len(score) - r])]
    return seen.x[order], seen.size[order]


def diffrate(seen: Seen, pruned: int, merged: int) -> tuple[Any, Any]:
    if merged == len(seen.x) - 1:
        return seen.x, seen.size
    score = seen.attention[:, 0, 1:].mean(0)
    order = [1 + i for i in sorted(range(len(score)), key=lambda i: -score[i])][:pruned]
    kept, x, size, counts = order[:merged], seen.x.copy(), seen.size.copy(), dict.fromkeys(order[:merged], 1)
    for source in order[merged:]:
        target = max(kept, key=lambda j, source=source: cosine(seen.x[source], seen.x[j]))
        x[target] += seen.x[source]
        size[target] += seen.size[source] * cosine(seen.x[source], seen.x[target])
        counts[target] += 1
    for target, count in counts.items():
        x[target] /= count
    return x[[0, *kept]], size[[0, *kept]]


def pitome(seen: Seen, ratio: float, margin: float, split_first: bool) -> tuple[Any, Any]:
    patches = range(1, len(seen.x))
    limit = margin - margin * seen.layer / seen.depth
    energy = {}
    for i in patches:
        apart = [cosine(seen.keys[i], seen.keys[j]) - limit for j in patches]
        energy[i] = sum(d if d > 0 else math.exp(d) - 1 for d in apart) / len(apart)
    ranked, r = sorted(patches, key=lambda i: -energy[i]), math.floor(len(patches) - len(patches) * ratio + 1e-9)
    splits = (seen.layer < seen.depth // 2) == split_first
    matched, protected = (ranked, []) if splits else (ranked[: 2 * r], ranked[2 * r :])
    a, b = matched[::2], matched[1::2]
    best = [(i, max(b, key=lambda j, i=i: cosine(seen.keys[i], seen.keys[j]))) for i in a] if b else []
    best.sort(key=lambda pair: -cosine(seen.keys[pair[0]], seen.keys[pair[1]]))
    x, size = weighted(seen, grouped(best[:r]))
    order = [0, *protected, *(i for i, _ in best[r:]), *b]
    return x[order], size[order]


def atc(seen: Seen, r: int, linkage: str) -> tuple[Any, Any]:
    clusters = [[i] for i in range(1, len(seen.x))]
    combine = {"single": min, "complete": max, "average": lambda each: sum(each) / len(each)}[linkage]
    for _ in range(r):

        def apart(pair: tuple[int, int]) -> float:
            ones, others = clusters[pair[0]], clusters[pair[1]]
            return combine([1 - cosine(seen.keys[i], seen.keys[j]) for i in ones for j in others])

        pairs = [(i, j) for j in range(len(clusters)) for i in range(j)]
        low, high = min(pairs, key=apart)
        clusters[low] = clusters[low] + clusters[high]
        del clusters[high]
    x, size = weighted(seen, {min(each): each for each in clusters})
    order = [0, *sorted(min(each) for each in clusters)]
    return x[order], size[order]


def tofu(seen: Seen, r: int, merge_from: int, kind: str) -> tuple[Any, Any]:
    pairs = [(a, b) for _, a, b in best_pairs(seen.keys)[:r]]
    x, order = seen.x.copy(), bipartite_order(len(seen.x), {a for a, _ in pairs})
    for target, members in grouped(pairs).items() if seen.layer >= merge_from else ():
        mean = sum(seen.x[i] for i in members) / len(members)
        length = {"mean": mean, "old": seen.x[target]}.get(kind)
        factor = (
            1.0
            if length is None
            else max(math.sqrt(seen.x[i] @ seen.x[i]) for i in members) / math.sqrt(length @ length)
        )
        x[target] = mean * factor
    return x[order], seen.size[order]


def gtp(seen: Seen, r: int, graph: str, neighbours: int, alpha: float) -> tuple[Any, Any]:
    memory = seen.memory
    if seen.layer == 0:
        start, P = memory["embedded"], len(memory["embedded"])
        side, joined = math.isqrt(P), np.zeros((P, P), dtype=bool)
        for i in range(P):
            similar = [cosine(start[i], start[j]) if j != i else -math.inf for j in range(P)]
            least = sorted(similar, reverse=True)[neighbours - 1]
            for j in range(P):
                near = i != j and max(abs(i // side - j // side), abs(i % side - j % side)) == 1
                joined[i, j] = (graph != "spatial" and similar[j] >= least) or (graph != "semantic" and near)
        degree = joined.sum(1)
        memory["graph"] = np.where(joined, 1 / np.sqrt(degree[:, None] * degree[None]), 0.0)
        memory["place"] = list(range(P))
    place = memory["place"]
    score = []
    for i in range(1, len(seen.x)):
        own = max(head[i, i] for head in seen.attention)
        received = max(head[:, i].sum() for head in seen.attention)
        score.append(own * received)
    ranked = sorted(range(len(score)), key=lambda i: -score[i])
    kept, gone = ranked[: len(score) - r], ranked[len(score) - r :]
    x, size = seen.x.copy(), seen.size.copy()
    for i in kept:
        for j in gone:
            flow = alpha * memory["graph"][place[i], place[j]]
            x[1 + i] += flow * seen.x[1 + j]
            size[1 + i] += flow * seen.size[1 + j]
    memory["place"] = [place[i] for i in kept]
    order = [0, *(1 + i for i in kept)]
    return x[order], size[order]


def vid_tldr(seen: Seen, r: int) -> tuple[Any, Any]:
    rows = seen.attention.mean(0)[1:]
    sharp = (rows * np.log(rows)).sum(1)
    sharp = (sharp - sharp.min()) / (sharp.max() - sharp.min())
    above = np.maximum(sharp - sharp.mean(), 0)
    score = np.concatenate([[0.0], above / above.max()])
    x, size, pairs = seen.x.copy(), seen.size.copy(), [(a, b) for _, a, b in best_pairs(seen.x)[:r]]
    for target, members in grouped(pairs).items():
        entering = {i: score[i] * seen.size[i] for i in members if i != target} | {target: seen.size[target]}
        size[target] = sum(entering.values())
        x[target] = sum(weight * seen.x[i] for i, weight in entering.items()) / size[target]
    order = bipartite_order(len(x), {a for a, _ in pairs})
    return x[order], size[order]


def ltmp(seen: Seen, merge: float, prune: float) -> tuple[Any, Any]:
    pairs = [(a, b) for best, a, b in best_pairs(seen.keys) if best > merge] if len(seen.x) > 2 else []
    received = seen.attention.mean((0, 1))
    for target, members in grouped(pairs).items():
        received[target] = max(received[i] for i in members)
    x, size = weighted(seen, grouped(pairs))
    joined = {a for a, _ in pairs}
    left = [i for i in range(1, len(x)) if i not in joined]
    stay = [i for i in left if received[i] > prune] or [max(left, key=lambda i: received[i])]
    order = bipartite_order(len(x), set(range(1, len(x))) - set(stay))
    return x[order], size[order]


def merge_alike(seen: Seen, threshold: float, growth: float, least: float, by_size: int) -> tuple[Any, Any]:
    limit = max(1 - (1 - threshold) * math.exp(growth * seen.layer), least)
    if seen.layer < by_size:
        pairs = [(a, b) for best, a, b in best_pairs(seen.keys) if best > limit] if len(seen.x) > 2 else []
        order = bipartite_order(len(seen.x), {a for a, _ in pairs})
    else:
        ranked = sorted(range(1, len(seen.x)), key=lambda i: (-seen.size[i], i))
        large, small = ranked[: len(ranked) - len(ranked) // 2], ranked[len(ranked) - len(ranked) // 2 :]
        best = [(i, max(large, key=lambda j, i=i: cosine(seen.keys[i], seen.keys[j]))) for i in small]
        pairs = [(i, j) for i, j in best if cosine(seen.keys[i], seen.keys[j]) > limit]
        order = [i for i in range(len(seen.x)) if i not in {a for a, _ in pairs}]
    x, size = weighted(seen, grouped(pairs))
    return x[order], size[order]
