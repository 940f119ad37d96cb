"""Files of weights: named tensors read from them, and the one way of tensors into a model."""

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

# Where training scripts keep the weights; the first that is there is taken.
NESTED_UNDER = ("model", "state_dict", "model_ema", "state_dict_ema")
AVERAGES = ("model_ema", "state_dict_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of DistributedDataParallel, torch.compile and Lightning
MOST_WRAPPERS = 8  # entries in entries, or prefixes before prefixes
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
LONGEST_PATH = 400

Keep = Literal["model", "inference", "all"]
Adapt = Callable[[nn.Module, dict[str, Tensor]], Mapping[str, Tensor]]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors in a checkpoint file, wherever in it they are nested, without wrappers' prefixes.

    Warns where the file holds a moving average beside the weights, which are taken, and of weights that are not finite.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {shown(str(path), LONGEST_PATH)}.")
    if not path.is_file():  # of a pipe or a device nobody sees the end
        raise ValueError(
            f"{path} is a {'folder' if path.is_dir() else 'pipe or a device'}, and a checkpoint is a file."
        )
    if path.name.endswith(".safetensors.index.json"):
        raise ValueError(f"{path} tells of weights in several files: join them in one .safetensors file.")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        state = _named_tensors(_read_torch(path), path)
    else:
        raise ValueError(f"{path} is not a checkpoint that can be read: wanted a .safetensors or a .pth file.")
    _check_plain(state, path)
    return _without_prefix(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and what its reader raises for kinds of numbers that it lacks
        raise ValueError(f"{path} is not a whole safetensors file ({first_line(error)}).") from error


def _read_torch(path: Path) -> object:
    try:
        # What timm's, DeiT's and EViT's scripts keep beside the weights; making one runs no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        holds = f" (it holds a {shown(foreign[1])})" if foreign else ""
        raise ValueError(
            f"{path} is not a PyTorch file of plain tensors{holds}, the only kind that is safe to load: "
            "save the state_dict alone, best as .safetensors."
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
                f"{path} holds weights and their moving average: took {nested[0]}, not {averages[0]}.",
                VitrimWarning,
                stacklevel=3,
            )
        content = content[nested[0]]
    entries = list(content.items()) if isinstance(content, Mapping) else []
    if entries and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        return dict(entries)
    raise ValueError(
        f"{path} holds no state_dict, names with tensors, neither as it is nor under {', '.join(NESTED_UNDER)}."
    )


def _check_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """ValueError for tensors that are no plain array of numbers; a warning for numbers that are not finite."""
    for key, value in state.items():
        kind = type(value).__name__ if type(value) not in (Tensor, nn.Parameter) else None
        if value.layout != torch.strided or value.is_nested:
            kind = f"tensor that is {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')}"
        if value.is_meta:
            kind = "tensor without numbers (on the meta device)"
        if kind is not None:
            raise ValueError(f"{path}: {shown(key)} is a {kind}, and weights are plain dense tensors.")
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
    """Put the weights into the model, in its own precision; ValueError, naming what differs, unless all are its own.

    Args:
        model: in which every weight finds its place. What a method learned is taken where the model has it.
        state: tensors by name, as `read_checkpoint` gives them.
        name: what the model is called in an error.
        source: the file or folder, for an error.
        keep: what of the state must fit. "model": the model's own weights, "inference": those of its method too, but
            for what only training needs (exit heads), "all": everything.
        adapt: makes the rest of the state the model's, say by resampling the positions.
        may_be_new: whether weights that a method learns may be missing; they stay as they are.

    Returns:
        The names of those that are new.
    """
    own = model.state_dict()
    found = {key: value for key, value in state.items() if key in own or _is_kept(key, keep)}
    found = dict(found if adapt is None else adapt(model, found))
    new = [key for key in own if key not in found and is_learned(key)]
    if new and not may_be_new:
        raise ValueError(
            f"{source} has no weights for what the method learns ({new[0]}): take a method that learns nothing, or "
            "reduce_tokens after loading and train it."
        )
    check_fit(model, found | {key: own[key] for key in new}, name, source)
    model.load_state_dict(found, strict=not new)
    return new


def is_learned(key: str, only_for_training: bool = False) -> bool:
    """Whether a weight belongs to a method rather than to the model, or to what of a method only training needs."""
    return re.search(rf"\d\.{WEIGHTS}\.{rf'{TRAINING_ONLY}[.]' if only_for_training else ''}", key) is not None


def _is_kept(key: str, keep: Keep) -> bool:
    return keep == "all" or not is_learned(key, only_for_training=keep == "inference")


def check_fit(model: nn.Module, state: Mapping[str, Tensor], name: str, checkpoint: Path) -> None:
    """ValueError, naming what differs, unless keys, shapes and kinds of numbers are those of the model."""
    wanted = model.state_dict()
    both = [key for key in wanted if key in state]
    shapes = [
        f"{shown(key)} is {_shape(state[key])} there and {_shape(wanted[key])} here"
        for key in both
        if state[key].shape != wanted[key].shape
    ]
    kinds = [f"{shown(key)} is {_kind(state[key])}" for key in both if not _is_of_kind(state[key], wanted[key])]
    findings = [
        _listed("missing", (key for key in wanted if key not in state)),
        _listed("unknown", (shown(key) for key in state if key not in wanted)),
        _listed("of another shape", shapes),
        _listed("no floating-point weights", kinds),
    ]
    if any(findings):
        said = "; ".join(finding for finding in findings if finding)
        raise ValueError(f"{checkpoint} is not a checkpoint of {name}: {said}.")


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # 8 bits mean something with their scales alone


def _is_of_kind(given: Tensor, wanted: Tensor) -> bool:
    """Whether these numbers can be that weight, or that buffer: counters and indices are whole, also as floats."""
    if given.dtype == wanted.dtype:
        return True
    if wanted.is_floating_point():
        return given.dtype in FLOATS
    if given.dtype in FLOATS:  # a whole state_dict in half precision
        return bool((given == given.round()).all())
    return not given.is_complex() and not given.is_quantized and not given.is_floating_point()


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(what: str, keys: Iterable[str], most: int = 2) -> str:
    """'5 missing (head.bias, head.weight, ...)', or nothing for no keys."""
    found = list(keys)
    if not found:
        return ""
    return f"{len(found)} {what} ({', '.join(found[:most])}{', ...' if len(found) > most else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
