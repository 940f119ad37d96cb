"""Files of weights: named tensors read from them, and whether they are a model's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

NESTED_UNDER = ("model", "state_dict", "model_ema", "state_dict_ema")  # where training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors in a checkpoint file, wherever in it they are nested, without wrappers' prefixes."""
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}.")
    if path.suffix == ".safetensors":
        return _without_prefix(_read_safetensors(path))
    if path.suffix in TORCH_SUFFIXES:
        return _without_prefix(_named_tensors(_read_torch(path), path))
    raise ValueError(f"{path} is not a checkpoint that can be read: wanted a .safetensors or a .pth file.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({first_line(error)}).") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise ValueError(
            f"{path} is not a PyTorch file of plain tensors, the only kind that is safe to load: "
            "save the state_dict alone, best as .safetensors."
        ) from error


def _named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in NESTED_UNDER:
            if isinstance(content.get(key), Mapping):
                return _named_tensors(content[key], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    raise ValueError(f"{path} holds no state_dict, neither as it is nor under {', '.join(NESTED_UNDER)}.")


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return _without_prefix({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def check_fit(model: nn.Module, state: Mapping[str, Tensor], name: str, checkpoint: Path) -> None:
    """ValueError, naming what differs, unless keys and shapes are those of the model."""
    wanted = model.state_dict()
    differing = [
        f"{key} is {_shape(state[key])} there and {_shape(wanted[key])} here"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    findings = [
        _listed("missing", (key for key in wanted if key not in state)),
        _listed("unknown", (key for key in state if key not in wanted)),
        _listed("of another shape", differing),
    ]
    if any(findings):
        said = "; ".join(finding for finding in findings if finding)
        raise ValueError(f"{checkpoint} is not a checkpoint of {name}: {said}.")


def _listed(what: str, keys: Iterable[str], most: int = 2) -> str:
    """'5 missing (head.bias, head.weight, ...)', or nothing for no keys."""
    found = list(keys)
    if not found:
        return ""
    return f"{len(found)} {what} ({', '.join(found[:most])}{', ...' if len(found) > most else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:") if text else type(error).__name__
