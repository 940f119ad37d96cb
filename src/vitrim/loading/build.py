"""Models by name, with weights from a checkpoint file, from a saved folder, or from timm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..text import first_line
from . import libraries
from .folder import WEIGHTS_FILE, Config, check_folder, is_learned, read_config
from .names import check_name, is_saved, split_name
from .network import check_hub
from .weights import fill, read_checkpoint


def load_model(name: str, checkpoint: str | Path | None = None, *, img_size: int | None = None) -> nn.Module:
    """The model of that name in eval mode, with the checkpoint's weights, or with its library's if none is given.

    name: of a timm model, or of another library's (`libraries`), torchvision:vit_b_16; or a folder that
        `save_pretrained` wrote: its model and weights with *all* tokens, for any method to act on; or a folder of
        transformers'.
    checkpoint: a .safetensors file, or a .pth file of tensors (never unpickled beyond that); not for transformers,
        whose folders bring their weights. All keys and shapes must fit, but for what only training needs (METR's
        exits), which is left out; the model has as many classes as the checkpoint's head.
    img_size: position embeddings are resampled to that resolution.
    Errors: ValueError for a name, file or size that does not fit; OSError where weights cannot be had.
    """
    name = os.fspath(name)
    checkpoint = None if checkpoint is None else Path(checkpoint).expanduser()
    if (other := split_name(name)) is not None:
        return libraries.load(*other, checkpoint, img_size)
    saved = is_saved(name)
    if saved and checkpoint is not None:
        raise ValueError(f"{name} is a saved model and brings its weights; with a checkpoint, give a model's name.")
    if saved:
        checkpoint = check_folder(Path(name)) / WEIGHTS_FILE
    if checkpoint is None:
        return _pretrained(name, img_size)
    state = read_checkpoint(checkpoint)
    model = build_model(name, img_size=img_size) if saved else build_for(name, state, img_size)
    state = {key: value for key, value in state.items() if not is_learned(key, only_for_training=not saved)}
    state = adapt_state(model, state) if img_size is None else resample_positions(model, state)
    fill(model, state, name, checkpoint)
    return model


def build_for(name: str, state: Mapping[str, Tensor], img_size: int | None) -> nn.Module:
    """`build_model` with as many classes as the classifier among these weights has."""
    model: Any = build_model(name, img_size=img_size)
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    weight = state.get(f"{names if isinstance(names, str) else names[0]}.weight")
    if weight is None or weight.ndim != 2 or len(weight) == model.num_classes:
        return model
    return build_model(name, img_size=img_size, num_classes=len(weight))


def build_model(name: str, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """The model of that name, or of that saved folder, in eval mode with random weights; no weights are downloaded.

    name: as in `load_model`. For one on the hub its configuration is asked for, if it is not on this machine yet.
    settings: what else a timm model's constructor takes, such as num_classes or drop_path_rate.
    """
    name = os.fspath(name)
    if (other := split_name(name)) is not None:
        if settings:
            raise ValueError(f"{name} is trained by its own library: {', '.join(settings)} cannot be set here.")
        return libraries.build(*other, img_size)
    if is_saved(name):
        return build_saved(read_config(Path(name)), img_size=img_size, **settings)
    return _create(name, img_size, pretrained=False, **settings)


def build_saved(config: Config, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """The model that a saved folder describes, with all its tokens and random weights; ValueError if there is none."""
    arguments = {**config.arguments, **settings} | ({} if img_size is None else {"img_size": img_size})
    arguments["pretrained_cfg_overlay"] = config.data
    try:
        return _create(config.architecture, arguments.pop("img_size", None), pretrained=False, **arguments)
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever arguments of the wrong kind lead timm's builder to
        raise ValueError(f"{config.architecture} cannot be built as it was saved: {first_line(error)}.") from error


def resample_positions(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The position embedding at the model's resolution; left alone where model or file has none of the usual kind."""
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    from ..models.lvvit import LVViT

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


def _pretrained(name: str, img_size: int | None) -> nn.Module:
    config: Any = build_model(name, img_size=img_size).pretrained_cfg
    if not any(config.get(key) for key in ("url", "file", "hf_hub_id", "state_dict")):
        raise ValueError(f"timm has no pretrained weights for {name}: pass --checkpoint FILE.")
    file = config.get("file")
    if file and not Path(file).exists():
        raise FileNotFoundError(f"the weights of {name} belong at {file} and are not there: pass --checkpoint FILE.")
    try:
        if config.get("hf_hub_id") and not config.get("file"):
            check_hub(config["hf_hub_id"], config.get("hf_hub_filename"))
        return _create(name, img_size, pretrained=True)
    except OSError as error:
        raise OSError(
            f"the pretrained weights of {name} cannot be had, is there a network? "
            f"pass --checkpoint FILE to use weights on this machine ({first_line(error)})."
        ) from error


def _create(name: str, img_size: int | None, *, pretrained: bool, **settings: Any) -> nn.Module:
    import timm

    from ..models import embedded, lvvit, multiscale  # noqa: F401  (they register their models with timm)

    check_name(name)
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        return timm.create_model(name, pretrained=pretrained, **size, **settings).eval()
    except (TypeError, AssertionError) as error:
        if img_size is None:
            raise
        raise ValueError(f"{name} cannot be built for images of {img_size} pixels: {first_line(error)}.") from error
    except RuntimeError as error:
        if "nvalid pretrained tag" not in str(error):
            raise
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise ValueError(f"timm has no weights called {name}; there are {tags}.") from error
