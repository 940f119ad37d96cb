"""The rules for methods, as a test of your own: `vitrim.testing.check_method(MyMethod())`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .api import reduce_tokens, restore
from .backbones.reader import find_stack, read_backbone
from .core.listening import Listener, listening
from .core.method import Method, is_decorated
from .core.tokens import Tokens
from .measure.budget.formula import block_macs
from .measure.macs import count_macs

DEPTH, IMAGES = 4, 6


def check_method(method: Method, model: nn.Module | None = None, images_BCHW: Tensor | None = None) -> None:
    """Hold a method to the rules of docs/adding-a-method.md.

    The rules: settings are a value. At the neutral amount, outputs are bit-identical to the model's own. Token counts
    and multiply-adds are as announced. Every patch is dropped, or in a token after the prefix. An image alone gives the
    same as in a batch, and the same twice. Tracing changes nothing. Gradients are finite. `restore` gives the model
    back unchanged.

    Args:
        method: the method, at settings that reduce something.
        model: the model to try it on; by default a small ViT of timm with random weights.
        images_BCHW: the images to try it on; by default six random ones.

    Raises:
        AssertionError: If a rule does not hold. The message is the rule.
    """
    model = small_vit() if model is None else model
    if images_BCHW is None:
        images_BCHW = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for check in (_is_a_value, _is_neutral, _announces, _accounts, _is_steady, _learns, _restores):
        check(method, copy.deepcopy(model).eval(), images_BCHW)


def small_vit() -> nn.Module:
    """A Vision Transformer of timm with 64 patches, four blocks, ten classes and random weights."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=DEPTH, num_heads=3, num_classes=10)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


@contextmanager
def leaving_blocks(model: nn.Module, *, traced: bool = False) -> Iterator[list[Tokens]]:
    """The tokens that leave each block while the with block runs. traced: whether with their sources."""
    seen: list[Tokens] = []
    found = find_stack(model)
    _hold(found is not None, "the model is reduced")
    assert found is not None
    with listening(found.stack.spec, _Looker(seen, traced)):
        yield seen


class _Looker(Listener):
    def __init__(self, seen: list[Tokens], traced: bool):
        self.seen, self.traced = seen, traced

    def after_block(self, block: Any, tokens: Tokens, changed: bool) -> Tokens:
        self.seen.append(tokens)
        return tokens


def _is_a_value(method: Method, model: nn.Module, _: Tensor) -> None:
    _hold(is_decorated(type(method)), "a method is a frozen dataclass")
    _hold(replace(method) == method, "two methods with the same settings are equal")
    spec = read_backbone(model).spec
    built = method.built_for(spec)
    _hold(built.built_for(spec) == built, "building a built method again changes nothing")


def _is_neutral(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    if method.amount is None:
        return
    with torch.no_grad():
        wanted = model(x_BCHW)
        got = reduce_tokens(model, method.at(method.amount.neutral))(x_BCHW)
    value = f"{method.amount.setting}={method.amount.neutral:g}"
    _hold(torch.equal(got, wanted), f"with {value} the outputs are bit-identical to the model's own")


def _announces(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    unreduced, spec = count_macs(model), read_backbone(model).spec
    reduce_tokens(model, method)
    built, patches, announced = method.built_for(spec), spec.num_patches, []
    for layer in range(spec.depth):
        patches = built.num_kept(layer, patches)
        announced.append(spec.num_prefix + patches)
    with torch.no_grad(), leaving_blocks(model) as seen:
        model(x_BCHW)
    counts = [max(tokens.num_tokens_B) for tokens in seen]
    if method.varies:
        held = all(count <= most for count, most in zip(counts, announced, strict=True))
        _hold(held, f"no image keeps more than num_kept says: {announced}, not {counts}")
        return
    _hold(counts == announced, f"num_kept gives the tokens that leave each block: {announced}, not {counts}")
    _hold(announced[-1] < spec.num_prefix + spec.num_patches, "the settings reduce something")
    formula = unreduced - block_macs(spec, None) + block_macs(spec, method)
    counted = count_macs(model)
    near = abs(counted - formula) <= 0.02 * unreduced
    _hold(near, f"extra_macs gives the cost of the method: {formula:,} multiply-adds, counted {counted:,}")


def _accounts(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    reduce_tokens(model, method)
    with torch.no_grad():
        plain = model(x_BCHW)
        with leaving_blocks(model, traced=True) as seen:
            traced = model(x_BCHW)
    _hold(torch.equal(plain, traced), "tracing changes nothing")
    for layer, tokens in enumerate(seen):
        if tokens.source_BP is None:
            continue
        for source_P, count in zip(tokens.source_BP, tokens.num_tokens_B, strict=True):
            held = set(source_P.tolist()) - {-1}
            _hold(
                held == set(range(tokens.num_prefix, count)),
                f"after block {layer} every token behind the prefix holds a patch, and no prefix token does: change "
                "tokens through vitrim.core.ops only",
            )


def _is_steady(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    model = reduce_tokens(model, method).double()
    x_BCHW = x_BCHW.double()
    with torch.no_grad():
        batch = model(x_BCHW)
        _hold(torch.equal(batch, model(x_BCHW)), "the same images give the same outputs twice")
        alone = torch.cat([model(image.unsqueeze(0)) for image in x_BCHW])
    _hold(torch.allclose(alone, batch, atol=1e-8), "an image alone gives the same outputs as in a batch")


def _learns(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    model = reduce_tokens(model, method).train()
    model(x_BCHW).square().sum().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    _hold(all(bool(grad.isfinite().all()) for grad in gradients) and bool(gradients), "gradients are finite")


def _restores(method: Method, model: nn.Module, x_BCHW: Tensor) -> None:
    keys = list(model.state_dict())
    with torch.no_grad():
        wanted = model(x_BCHW)
        reduce_tokens(model, method)
        got = restore(model)(x_BCHW)
    _hold(list(model.state_dict()) == keys and torch.equal(got, wanted), "restore gives the model back unchanged")


def _hold(rule: bool, text: str) -> None:
    if not rule:
        raise AssertionError(f"{text}.")
