"""Build and load models by name. Weights come from a checkpoint file, a saved folder or the model's library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..methods import title
from ..text import first_line, shown
from . import libraries
from .file_kinds import check_kinds
from .folder import LEARNED_FILE, WEIGHTS_FILE, Config, read_config, say_all_tokens
from .libraries import adapting
from .names import FOLDER, HUB, check_name, is_saved, split_name
from .network import check_hub
from .ranges import SIDES, check_multiple
from .weights import Keep, fit, read_checkpoint

T = TypeVar("T")


def load_model(name: str, checkpoint: str | Path | None = None, *, img_size: int | None = None) -> nn.Module:
    """Load a model by name, in eval mode, with all its tokens.

    Args:
        name: A timm model; a model of another library, such as torchvision:vit_b_16 (see `libraries`); a folder that
            `save_pretrained` wrote; or a folder of transformers. A reduction saved in a folder is not applied:
            `from_pretrained` does that.
        checkpoint: A .safetensors file, or a .pth file of tensors; no code in it is run. Without one, the weights are
            the library's or the folder's. Keys and shapes must match the model. Weights that only training needs, such
            as METR's exits, are skipped. The model gets as many classes as the checkpoint's head has. transformers
            takes no checkpoint, since its folders hold the weights.
        img_size: Pixels. Position embeddings are resampled to this resolution.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: If the name, file or size does not fit.
        OSError: If the weights cannot be found or downloaded.
    """
    name = os.fspath(name)
    checkpoint = None if checkpoint is None else Path(checkpoint).expanduser()
    if (other := split_name(name)) is not None:
        return libraries.load(*other, checkpoint, img_size)
    if is_saved(name):
        if checkpoint is not None:
            raise ValueError(f"{name} is a saved model and has weights: with a checkpoint, give the name of a model.")
        config = read_config(Path(name))
        model = build_saved(config, Path(name), img_size=img_size)
        state, adapt = state_of(Path(name), model, config.library), adapting(img_size, config.library)
        fit(model, state, name, Path(name) / WEIGHTS_FILE, keep="model", adapt=adapt)
        _say_all_tokens(name, config)
        return model
    return _pretrained(name, img_size) if checkpoint is None else load_trained(name, checkpoint, img_size)


def load_trained(name: str, checkpoint: Path, img_size: int | None, keep: Keep = "inference") -> nn.Module:
    """Load a timm model with the weights of a checkpoint and its number of classes. keep: see `fit`."""
    state = read_checkpoint(checkpoint)
    model = build_for(name, state, img_size)
    fit(model, state, name, checkpoint, keep=keep, adapt=adapting(img_size))
    return model


def load_checked(
    name: str, checkpoint: str | Path | None, img_size: int | None, check: Callable[[nn.Module], T]
) -> tuple[nn.Module, T]:
    """Load a model, and return it with the result of `check(model)`.

    If the weights must be downloaded, a model with random weights is checked first. Otherwise it is built only once.
    """
    if checkpoint is None and not _is_here(name):
        check(build_model(name, img_size=img_size))
    model = load_model(name, checkpoint, img_size=img_size)
    return model, check(model)


def _is_here(name: str) -> bool:
    """Whether the weights of this model are on this machine."""
    if is_saved(name):
        return True
    library, rest = split_name(name) or ("timm", name)
    if library != "timm":
        return library == "transformers" and Path(rest).expanduser().is_dir()
    return bool(_config_of(name).get("file"))


def build_for(name: str, state: Mapping[str, Tensor], img_size: int | None) -> nn.Module:
    """Build a model with as many classes as the classifier in these weights."""
    classifier = _config_of(name).get("classifier") or "head"
    weight = state.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    classes = {} if weight is None or weight.ndim != 2 else {"num_classes": len(weight)}
    return build_model(name, img_size=img_size, **classes)


def build_model(name: str, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """Build a model by name, in eval mode, with random weights. No weights are downloaded.

    Args:
        name: As in `load_model`. The configuration of a model on the hub is downloaded if it is not in the cache.
        img_size: Pixels. The model is built for this resolution.
        **settings: Other arguments of a timm model's constructor, such as num_classes or drop_path_rate.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: If the name, a size or a setting does not fit.
    """
    name = os.fspath(name)
    if (other := split_name(name)) is not None:
        if settings:
            raise ValueError(f"{name} is not a timm model: {', '.join(settings)} cannot be set for it.")
        return libraries.build(*other, img_size)
    if is_saved(name):
        config = read_config(Path(name))
        model = build_saved(config, Path(name), img_size=img_size, **settings)
        _say_all_tokens(name, config)
        return model
    return _create(name, img_size, pretrained=False, **settings)


def _say_all_tokens(name: str, config: Config) -> None:
    if config.method is not None:
        say_all_tokens(name, title(config.method))


def build_saved(config: Config, folder: Path, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """Build the model that a saved folder describes, with all its tokens; ValueError if that fails.

    The weights are random, except for transformers, which reads them while it builds.
    """
    try:
        if config.library != "timm":
            if settings:
                raise ValueError(f"{folder} is not a timm model: {', '.join(settings)} cannot be set for it.")
            return libraries.LIBRARIES[config.library].rebuild(config, folder, img_size).eval()
        size = {} if img_size is None else {"img_size": img_size}
        arguments: dict[str, Any] = {**config.arguments, **settings, **size, "pretrained_cfg_overlay": config.data}
        return _create(config.architecture, arguments.pop("img_size", None), pretrained=False, **arguments)
    except (ValueError, OSError):
        raise
    except Exception as error:  # builders raise all kinds of errors for arguments of the wrong type
        raise ValueError(f"{config.architecture} cannot be built as it was saved: {first_line(error)}.") from error


def state_of(folder: Path, model: nn.Module, library: str) -> dict[str, Tensor]:
    """Read the weights in a saved folder. A transformers model has its own already: add what the method learned."""
    if library != "transformers":
        return read_checkpoint(folder / WEIGHTS_FILE)
    learned = folder / LEARNED_FILE
    return dict(model.state_dict()) | (read_checkpoint(learned) if learned.is_file() else {})


def _pretrained(name: str, img_size: int | None) -> nn.Module:
    config = _config_of(name)
    if not any(config.get(key) for key in ("url", "file", "hf_hub_id", "state_dict")):
        raise ValueError(f"timm has no pretrained weights for {name}: pass --checkpoint FILE.")
    file = config.get("file")
    if file and not Path(file).exists():
        raise FileNotFoundError(f"the weights of {name} are missing, expected at {file}: pass --checkpoint FILE.")
    if name.startswith(FOLDER):
        check_kinds(Path(name.removeprefix(FOLDER)).glob("*.safetensors"))
    try:
        if config.get("hf_hub_id") and not config.get("file"):
            check_hub(config["hf_hub_id"], config.get("hf_hub_filename"))
        return _create(name, img_size, pretrained=True)
    except OSError as error:
        raise OSError(
            f"the pretrained weights of {name} cannot be downloaded ({first_line(error)}): check the network, or pass "
            "--checkpoint FILE to use weights on this machine."
        ) from error


def _config_of(name: str) -> Mapping[str, Any]:
    """timm's `pretrained_cfg` of a model, read without building it."""
    from timm.models import get_pretrained_cfg

    _register()
    check_name(name)
    if name.startswith((HUB, FOLDER)):  # timm reads it from there
        with torch.device("meta"):
            config: Any = _create(name, None, pretrained=False).pretrained_cfg
        return dict(config)
    with _known_tags(name):
        found: Any = get_pretrained_cfg(name)
    return {} if found is None else found.to_dict()


def _register() -> None:
    """Register vitrim's own models with timm."""
    from ..models import embedded, lvvit, multiscale  # noqa: F401


@contextmanager
def _known_tags(name: str) -> Iterator[None]:
    """Turn timm's error for an unknown pretrained tag into a ValueError that lists the known ones."""
    import timm

    try:
        yield
    except RuntimeError as error:
        if "nvalid pretrained tag" not in str(error):
            raise
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise ValueError(f"timm has no weights called {name}; there are {tags}.") from error


def _create(name: str, img_size: int | None, *, pretrained: bool, **settings: Any) -> nn.Module:
    import timm

    _register()
    check_name(name)
    if img_size is not None and not SIDES.fits(img_size):
        raise ValueError(f"the size of images is {SIDES.wanted}, not {shown(repr(img_size))}.")
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        with _known_tags(name):
            model = timm.create_model(name, pretrained=pretrained, **size, **settings).eval()
    except (TypeError, AssertionError) as error:
        if img_size is None:
            raise
        raise ValueError(f"{name} cannot be built for images of {img_size} pixels: {first_line(error)}.") from error
    if img_size is not None:
        _check_patches(name, model)
    return model


def _check_patches(name: str, model: nn.Module) -> None:
    """ValueError for a size that timm builds a model for and then refuses: of one that takes several sizes."""
    embed: Any = getattr(model, "patch_embed", None)
    if not getattr(embed, "strict_img_size", True) and not embed.dynamic_img_pad:
        for pixels, patch in zip(embed.img_size, embed.patch_size, strict=True):
            check_multiple(name, pixels, patch)
