"""torch.compile(fullgraph=True, dynamic=True): one graph of a reduced model, which other batch sizes use again.

Tokens per block follow from shapes, so nothing in a forward depends on what the images show. A batch of one is a case
of its own: PyTorch takes sizes 0 and 1 for constants, so it has a graph for one image and another for all other sizes.
Methods whose counts vary from image to image are no part of this.

BAT's matching and clustering take PyTorch many minutes to trace under dynamic=True. Only the batch varies, and saying
just that, by torch._dynamo.mark_dynamic(images, 0), gives the same one graph in seconds; so they are tested that way.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch._dynamo import config
from torch._dynamo.testing import CompileCounterWithBackend

import library_models
import vitrim
from every_method import FIXED, PLAIN, amount
from vitrim.methods import settings_of

BY_MARK = ("beyond_attentive", "evit+bat")
FAST = ("evit", "token_mergence", "tome")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, amount(name, per_block=11)) for name in FIXED),
    *(("beyond_attentive", {"inattentive": way}) for way in ("kmeans", "spatial", "conv", "mlp")),
]
every_method = pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(
            name,
            settings,
            id="-".join((name, *map(str, settings.values()))),
            marks=() if name in FAST else pytest.mark.slow,
        )
        for name, settings in CASES
    ],
)
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: library_models.torchvision_vit(num_layers=2),
    "transformers": lambda: library_models.of_transformers(
        "ViTForImageClassification", "ViTConfig", **library_models.HF | {"num_hidden_layers": 2}, num_labels=10
    ),
    "open_clip": lambda: library_models.of_open_clip(layers=2).visual,
}


def images_of(num_images: int) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(num_images))


@contextmanager
def recompiling_fails() -> Iterator[None]:
    with config.patch(error_on_recompile=True):
        yield


def assert_one_graph(
    model: nn.Module, backend: str = "eager", tolerance: float = 1e-6, *, by_mark: bool = False
) -> None:
    """Batches of 2, 5 and 7 run on the graph of the first, with the numbers of the model itself.

    tolerance: compiled, short attention in fp32 is summed in another way.
    by_mark: the batch is marked as dynamic, where otherwise dynamic=True says so of everything.
    """
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, fullgraph=True, dynamic=None if by_mark else True, backend=counter)
    read, first = library_models.output, images_of(2)
    if by_mark:
        torch._dynamo.mark_dynamic(first, 0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(compiled, first)
        with recompiling_fails():
            for num_images in (2, 5, 7):
                images = images_of(num_images)
                torch.testing.assert_close(read(compiled, images), read(model, images), atol=tolerance, rtol=tolerance)
    graphs = [graph for graph in counter.graphs if len(graph.graph.nodes) > 0]  # torch empties one that it starts anew
    assert len(graphs) == 1


@every_method
def test_a_reduced_model_is_one_graph_for_every_batch_size(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Through the fused kernel, as uncompiled: another rounding may tip a choice among a random model's scores.
    monkeypatch.setattr("vitrim.core.token_block.max_chunked_tokens", lambda _: 0)
    first = PLAIN[name].first_layer
    layers = {"layers": (first, first + 1)} if "layers" in settings_of(name) else {}
    model = vitrim.reduce_tokens(tiny_vit(depth=3), name, **settings, **layers)
    assert_one_graph(model, tolerance=0.0, by_mark=name in BY_MARK)


def test_attention_in_steps_is_one_graph_too(tiny_vit: Callable[..., VisionTransformer]) -> None:
    assert_one_graph(vitrim.reduce_tokens(tiny_vit(depth=3), "evit", layers=(0, 1)))


@pytest.mark.parametrize("library", OTHERS)
def test_models_of_other_libraries_are_one_graph_too(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    assert_one_graph(vitrim.reduce_tokens(OTHERS[library](), "evit", layers=(0,)), tolerance=1e-5)


def test_a_single_image_has_a_graph_of_its_own(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=2), "evit", keep_rate=0.5, layers=(0,))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for num_images in (1, 2, 1, 7, 3):
            wanted = model(images_of(num_images))
            torch.testing.assert_close(compiled(images_of(num_images)), wanted, atol=1e-6, rtol=0)
    assert counter.frame_count == 2


def test_a_break_in_the_graph_would_be_seen(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=2), "evit", keep_rate=0.5, layers=(0,))
    model.norm.register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(torch._dynamo.exc.Unsupported):
        assert_one_graph(model)


def test_a_count_that_depends_on_the_batch_would_be_seen(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=2), "evit", keep_rate=0.5, layers=(0,))
    model.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0] * (1 if inputs[0].shape[0] > 4 else 2),))
    with pytest.raises(torch._dynamo.exc.RecompileError):
        assert_one_graph(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evit", "beyond_attentive", "tome"])
def test_inductor_keeps_one_graph_and_the_numbers(tiny_vit: Callable[..., VisionTransformer], name: str) -> None:
    model = vitrim.reduce_tokens(tiny_vit(depth=4), name, **amount(name, per_block=11))
    assert_one_graph(model, "inductor", tolerance=1e-5, by_mark=name in BY_MARK)


@pytest.mark.slow
def test_a_model_in_int8_is_one_graph_too(tiny_vit: Callable[..., VisionTransformer]) -> None:
    pytest.importorskip("torchao", reason='needs the extra "int8"')
    model = vitrim.quantize_int8(vitrim.reduce_tokens(tiny_vit(depth=4), "evit", keep_rate=0.5))
    assert_one_graph(model, "aot_eager", tolerance=1e-4, by_mark=True)
