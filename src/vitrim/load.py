"""Models by name, with weights from a checkpoint file, from a saved folder, or from timm."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import other_libraries
from .network import check_hub as _check_hub
from .other_libraries import split_name
from .pretrained.config import WEIGHTS_FILE, Config, check_folder, is_learned, read_config

NESTED_UNDER = ("model", "state_dict", "model_ema", "state_dict_ema")  # where training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
HUB, FOLDER = "hf-hub:", "local-dir:"  # beginnings of names that timm looks up outside its own registry


def load_model(name: str, checkpoint: Path | None = None, *, img_size: int | None = None) -> nn.Module:
    """The timm model of that name in eval mode, with the checkpoint's weights, or with timm's if none is given.

    name: or one of another library (`other_libraries`), torchvision:vit_b_16; or a folder that `save_pretrained`
        wrote: its model and weights with *all* tokens, for any method to act on.
    checkpoint: a .safetensors file, or a .pth file of tensors (never unpickled beyond that). All keys and shapes
    must fit, but for what only training needs (METR's exits), which is left out; with img_size, position embeddings
    are resampled to that resolution.
    Errors: ValueError for a name, file or size that does not fit; OSError where weights cannot be had.
    """
    if (other := split_name(name)) is not None:
        return other_libraries.load(*other, checkpoint, img_size)
    saved = is_saved(name)
    if saved and checkpoint is not None:
        raise ValueError(f"{name} is a saved model and brings its weights; with a checkpoint, give a model's name.")
    if saved:
        checkpoint = check_folder(Path(name)) / WEIGHTS_FILE
    if checkpoint is None:
        return _pretrained(name, img_size)
    state = read_checkpoint(checkpoint)
    model = build_model(name, img_size=img_size)
    state = {key: value for key, value in state.items() if not is_learned(key, only_for_training=not saved)}
    state = adapt_state(model, state) if img_size is None else resample_positions(model, state)
    check_fit(model, state, name, checkpoint)
    model.load_state_dict(state)
    return model


def build_model(name: str, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """The timm model of that name, or of that saved folder, in eval mode with random weights; nothing is downloaded.

    settings: what else its constructor takes, such as num_classes or drop_path_rate.
    """
    if (other := split_name(name)) is not None:
        if settings:
            raise ValueError(f"{name} is trained by its own library: {', '.join(settings)} cannot be set here.")
        return other_libraries.build(*other, img_size)
    if is_saved(name):
        return build_saved(read_config(Path(name)), img_size=img_size, **settings)
    return _create(name, img_size, pretrained=False, **settings)


def is_saved(name: str) -> bool:
    """Whether the name is a folder's; for a folder called like one of timm's models, write ./name."""
    import timm

    return Path(name).is_dir() and not timm.is_model(name)


def build_saved(config: Config, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """The model that a saved folder describes, with all its tokens and random weights; ValueError if there is none."""
    arguments = {**config.arguments, **settings} | ({} if img_size is None else {"img_size": img_size})
    arguments["pretrained_cfg_overlay"] = config.data
    try:
        return _create(config.architecture, arguments.pop("img_size", None), pretrained=False, **arguments)
    except (TypeError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
        raise ValueError(f"{config.architecture} cannot be built as it was saved: {_first_line(error)}.") from error


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
        raise ValueError(f"{path} is not a whole safetensors file ({_first_line(error)}).") from error


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


def resample_positions(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The position embedding at the model's resolution; left alone where model or file has none of the usual kind."""
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    from .models.lvvit import LVViT

    if not isinstance(model, (VisionTransformer, LVViT)) or model.pos_embed is None or "pos_embed" not in state:
        return state
    num_prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    grid = list(model.patch_embed.grid_size)
    positions = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=num_prefix)
    return adapt_state(model, state | {"pos_embed": positions})


def adapt_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state as the model wants it, where it says how: a multi-scale model starts from the weights of a DeiT."""
    adapt = getattr(model, "adapt_state", None)
    return state if adapt is None else adapt(state)


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


def _pretrained(name: str, img_size: int | None) -> nn.Module:
    config: Any = build_model(name, img_size=img_size).pretrained_cfg
    if not any(config.get(key) for key in ("url", "file", "hf_hub_id", "state_dict")):
        raise ValueError(f"timm has no pretrained weights for {name}: pass --checkpoint FILE.")
    file = config.get("file")
    if file and not Path(file).exists():
        raise FileNotFoundError(f"the weights of {name} belong at {file} and are not there: pass --checkpoint FILE.")
    try:
        if config.get("hf_hub_id") and not config.get("file"):
            _check_hub(config["hf_hub_id"], config.get("hf_hub_filename"))
        return _create(name, img_size, pretrained=True)
    except OSError as error:
        raise OSError(
            f"the pretrained weights of {name} cannot be had, is there a network? "
            f"pass --checkpoint FILE to use weights on this machine ({_first_line(error)})."
        ) from error


def _create(name: str, img_size: int | None, *, pretrained: bool, **settings: Any) -> nn.Module:
    import timm

    from .models import embedded, lvvit, multiscale  # noqa: F401  (they register their models with timm)

    _check_name(name)
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        return timm.create_model(name, pretrained=pretrained, **size, **settings).eval()
    except (TypeError, AssertionError) as error:
        if img_size is None:
            raise
        raise ValueError(f"{name} cannot be built for images of {img_size} pixels: {_first_line(error)}.") from error
    except RuntimeError as error:
        if "nvalid pretrained tag" not in str(error):
            raise
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise ValueError(f"timm has no weights called {name}; there are {tags}.") from error


def _check_name(name: str) -> None:
    import timm

    if name.startswith(HUB):
        _check_hub(name.removeprefix(HUB))
    if name.startswith((HUB, FOLDER)) or timm.is_model(name):
        return
    known = timm.list_models()
    close = difflib.get_close_matches(name.partition(".")[0], known, n=3, cutoff=0.6)
    hint = f"close names are {', '.join(close)}" if close else "timm.list_models() lists all names"
    raise ValueError(f"no model is called {name!r}; {hint}.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:") if text else type(error).__name__
