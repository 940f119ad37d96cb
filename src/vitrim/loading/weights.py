"""Read files of weights, and load them into a model after checking every key, shape and dtype."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.block_view import WEIGHTS
from ..core.exits import TRAINING_ONLY
from ..core.notice import VitrimWarning
from ..text import first_line, shown

# The entries under which training scripts keep the weights; the first one found is used.
NESTED_UNDER = ("model", "state_dict", "model_ema", "state_dict_ema")
AVERAGES = ("model_ema", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DistributedDataParallel, torch.compile and Lightning
MOST_WRAPPERS = 8  # nested entries, or prefixes in a row
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
LONGEST_PATH = 400

Keep = Literal["model", "inference", "all"]
Adapt = Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint file. Nesting and the prefixes of wrappers are removed.

    Warns if the file also holds a moving average, which is not used, and if weights are not finite.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {shown(str(path), LONGEST_PATH)}.")
    if not path.is_file():  # reading a pipe or a device might never end
        raise ValueError(
            f"a checkpoint must be a file: {path} is a {'folder' if path.is_dir() else 'pipe or a device'}."
        )
    kind = path.suffix.lower()
    if path.name.endswith(".index.json"):
        raise ValueError(f"{path} lists weights in several files: join them in one .safetensors file.")
    if kind == ".safetensors":
        state = _read_safetensors(path)
    elif kind in TORCH_SUFFIXES:
        state = _named_tensors(_read_torch(path), path)
    else:
        raise ValueError(f"{path} cannot be read as a checkpoint: pass a .safetensors or a .pth file.")
    _check_plain(state, path)
    return _without_prefix(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and other errors for dtypes that are not supported
        raise ValueError(f"{path} is not a complete safetensors file ({first_line(error)}).") from error


def _read_torch(path: Path) -> object:
    try:
        # The scripts of timm, DeiT and EViT save a Namespace beside the weights; creating one runs no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about sparse tensors, which are refused later
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises all kinds of errors for damaged files
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        holds = f" (it holds a {shown(foreign[1])})" if foreign else ""
        raise ValueError(
            f"{path} is not a PyTorch file of plain tensors{holds}. Only those are safe to load: save the state_dict "
            "alone, best as .safetensors."
        ) from error


def _named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    for _ in range(MOST_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        nested = [key for key in NESTED_UNDER if isinstance(content.get(key), Mapping)]
        if not nested:
            break
        if nested[0] not in AVERAGES and (averages := [key for key in nested if key in AVERAGES]):
            warnings.warn(
                f"{path} holds weights and their moving average: using {nested[0]}, not {averages[0]}.",
                VitrimWarning,
                stacklevel=3,
            )
        content = content[nested[0]]
    entries = list(content.items()) if isinstance(content, Mapping) else []
    if entries and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        return dict(entries)
    raise ValueError(
        f"{path} holds no state_dict of names and tensors, neither at the top nor under {', '.join(NESTED_UNDER)}."
    )


def _check_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError for tensors that are not plain and dense; warn about numbers that are not finite."""
    for key, value in state.items():
        kind = type(value).__name__ if type(value) not in (Tensor, nn.Parameter) else None
        if value.layout != torch.strided or value.is_nested:
            kind = f"tensor that is {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')}"
        if value.is_meta:
            kind = "tensor without data (on the meta device)"
        if kind is not None:
            raise ValueError(f"{path}: {shown(key)} is a {kind}; weights must be plain dense tensors.")
    bad = [key for key, value in state.items() if value.dtype in FLOATS and not bool(value.isfinite().all())]
    if bad:
        warnings.warn(f"{path} holds NaN or infinity: {_listed('tensors', bad)}.", VitrimWarning, stacklevel=3)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(MOST_WRAPPERS):
        prefix = next((each for each in PREFIXES if state and all(key.startswith(each) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    source: Path,
    *,
    keep: Keep = "all",
    adapt: Adapt | None = None,
    may_be_new: bool = False,
) -> list[str]:
    """Load weights into the model, in the model's precision; ValueError, naming what differs, if they do not match.

    Args:
        model: Every one of its weights must be in the state. Weights that its method learned are loaded too.
        state: Tensors by name, from `read_checkpoint`.
        name: The model's name, for errors.
        source: The file or folder, for errors.
        keep: Which of the state's weights must match the model. "model": the model's own. "inference": also those of
            its method, except what only training needs (exit heads). "all": all of them.
        adapt: Adapts the state to the model first, for example by resampling position embeddings.
        may_be_new: Whether weights that the method learns may be missing. They then keep their values.

    Returns:
        The names of the weights that were missing.
    """
    own = model.state_dict()
    found = {key: value for key, value in state.items() if key in own or _is_kept(key, keep)}
    if adapt is not None and all(_is_alike(found[key], own[key]) for key in found.keys() & own.keys()):
        found = _adapted(model, found, name, source, adapt)
    new = [key for key in own if key not in found and is_learned(key)]
    if new and not may_be_new:
        raise ValueError(
            f"{source} has no weights for the method, which learns {new[0]}: train it first (`vitrim train`, "
            "docs/training.md), call reduce_tokens after loading, or choose a method without weights."
        )
    check_fit(model, found | {key: own[key] for key in new}, name, source)
    model.load_state_dict(found, strict=not new)
    return new


def _is_alike(given: Tensor, wanted: Tensor) -> bool:
    """Whether the shape is such that a library may be asked to resample it; others are refused as they are."""
    return given.ndim == wanted.ndim and bool(given.numel()) == bool(wanted.numel())


def _adapted(model: nn.Module, state: dict[str, Tensor], name: str, source: Path, adapt: Adapt) -> dict[str, Tensor]:
    try:
        return dict(adapt(model, state))
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever a library's resampling raises for odd shapes
        raise ValueError(
            f"{source} is not a checkpoint of {name}: its tensors cannot be made the model's ({first_line(error)})."
        ) from error


def is_learned(key: str, only_for_training: bool = False) -> bool:
    """Whether a weight belongs to a method and not to the model; or, if asked, to the part that only training needs."""
    return re.search(rf"\d\.{WEIGHTS}\.{rf'{TRAINING_ONLY}[.]' if only_for_training else ''}", key) is not None


def exits_in(state: Mapping[str, object]) -> tuple[int, ...]:
    """The blocks, 0-based, that have an exit head in these weights."""
    found = (re.search(rf"(\d+)\.{WEIGHTS}\.{TRAINING_ONLY}\.", key) for key in state)
    return tuple(sorted({int(match[1]) for match in found if match}))


def _is_kept(key: str, keep: Keep) -> bool:
    return keep == "all" or not is_learned(key, only_for_training=keep == "inference")


def check_fit(model: nn.Module, state: Mapping[str, Tensor], name: str, checkpoint: Path) -> None:
    """Raise ValueError, naming what differs, unless keys, shapes and kinds of numbers match the model."""
    wanted = model.state_dict()
    both = [key for key in wanted if key in state]
    shapes = [
        f"{shown(key)} is {_shape(state[key])} in the file and {_shape(wanted[key])} in the model"
        for key in both
        if state[key].shape != wanted[key].shape
    ]
    kinds = [f"{shown(key)} is {_kind(state[key])}" for key in both if not _is_of_kind(state[key], wanted[key])]
    findings = [
        _listed("missing", (key for key in wanted if key not in state)),
        _listed("unknown", (shown(key) for key in state if key not in wanted)),
        _listed("of another shape", shapes),
        _listed("not floating-point", kinds),
    ]
    if any(findings):
        differences = "; ".join(finding for finding in findings if finding)
        raise ValueError(f"{checkpoint} is not a checkpoint of {name}: {differences}.")


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # 8-bit floats mean nothing without their scales


def _is_of_kind(given: Tensor, wanted: Tensor) -> bool:
    """Whether the given numbers can serve as the wanted weight or buffer. Counters may be floats with whole values."""
    if given.dtype == wanted.dtype:
        return True
    if wanted.is_floating_point():
        return given.dtype in FLOATS
    if given.dtype in FLOATS:  # as when a whole state_dict was converted to half precision
        return bool((given == given.round()).all())
    return not given.is_complex() and not given.is_quantized and not given.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(what: str, keys: Iterable[str], most: int = 2) -> str:
    """For example '5 missing (head.bias, head.weight, ...)'; an empty string for no keys."""
    found = list(keys)
    if not found:
        return ""
    return f"{len(found)} {what} ({', '.join(found[:most])}{', ...' if len(found) > most else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
