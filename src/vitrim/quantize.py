"""Int8 with torchao: linear layers with int8 weights, and int8 activations with a dynamic scale per token.

Rounding can change which tokens a method keeps or merges. So the logits of a reduced model change more than those of
the unreduced one, in bf16 and in int8. `vitrim compare --int8` measures the effect on accuracy.

Activations have a zero point, because the output of a GELU is far from symmetric. On DeiT-Tiny and 32 ImageNet images
the logits' mean cosine to fp32 is 0.9992 with it and 0.9986 without.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, TypeVar

from torch import nn

from .quiet import quiet

M = TypeVar("M", bound=nn.Module)

INT8 = "int8"


def quantize_int8(model: M) -> M:
    """Quantize the model's linear layers to int8, in place. A second call changes nothing.

    Reduce the model before or after; `restore` gives the model with all tokens, still in int8. Convolutions and the
    projections inside an nn.MultiheadAttention (torchvision, open_clip) stay as they are. Weights are rounded for good:
    to go back, load them again. On a CPU only compiled models get faster.

    Args:
        model: in eval mode.

    Returns:
        The same model.

    Raises:
        ValueError: If torchao is missing, or `model` is not a model in eval mode with linear layers.
    """
    quantize_, config = _torchao()
    if not isinstance(model, nn.Module):
        raise ValueError(f"quantize_int8 takes a model, not {type(model).__name__}: load it first.")
    if model.training:
        raise ValueError("int8 is for inference: call model.eval() before quantize_int8(model).")
    layers = [module for module in model.modules() if _is_linear(module)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers, so there is nothing to put in int8.")
    quantize_(model, config, filter_fn=lambda module, _: _is_linear(module) and not _is_int8(module))
    return model


def is_int8(model: nn.Module) -> bool:
    """Whether the model has int8 layers."""
    return any(_is_int8(module) for module in model.modules() if _is_linear(module))


def check_torchao() -> None:
    """ValueError that names the extra, if torchao is missing."""
    _torchao()


def torchao_version() -> str:
    """The installed version of torchao."""
    return importlib.metadata.version("torchao")


def _torchao() -> tuple[Any, Any]:
    """torchao's function and its configuration."""
    try:
        with quiet():  # torchao registers an Enum in a way that torch logs as deprecated
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, MappingType, quantize_
    except ImportError as error:
        raise ValueError('int8 needs torchao: pip install "vitrim[int8]".') from error
    # set_inductor_config would change how all models of the process are compiled.
    config = Int8DynamicActivationInt8WeightConfig(act_mapping_type=MappingType.ASYMMETRIC, set_inductor_config=False)
    return quantize_, config


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)


def _is_int8(module: Any) -> bool:
    return type(module.weight.data).__module__.partition(".")[0] == "torchao"
