"""Models by name, with weights from a checkpoint file, from a saved folder, or from timm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..methods import title
from ..text import first_line
from . import libraries
from .folder import LEARNED_FILE, WEIGHTS_FILE, Config, read_config, say_all_tokens
from .names import FOLDER, HUB, check_name, is_saved, split_name
from .network import check_hub
from .positions import adapting
from .weights import fit, read_checkpoint

T = TypeVar("T")


def load_model(name: str, checkpoint: str | Path | None = None, *, img_size: int | None = None) -> nn.Module:
    """The model of that name in eval mode, with the checkpoint's weights, or with its library's if none is given.

    Args:
        name: of a timm model, or of another library's (`libraries`), torchvision:vit_b_16; or a folder that
            `save_pretrained` wrote: its model and weights with *all* tokens, for any method to act on; or a folder of
            transformers'.
        checkpoint: a .safetensors file, or a .pth file of tensors (never unpickled beyond that); not for transformers,
            whose folders bring their weights. All keys and shapes must fit, but for what only training needs (METR's
            exits), which is left out; the model has as many classes as the checkpoint's head.
        img_size: pixels; position embeddings are resampled to that resolution.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: for a name, file or size that does not fit.
        OSError: where weights cannot be had.
    """
    name = os.fspath(name)
    checkpoint = None if checkpoint is None else Path(checkpoint).expanduser()
    if (other := split_name(name)) is not None:
        return libraries.load(*other, checkpoint, img_size)
    if is_saved(name):
        if checkpoint is not None:
            raise ValueError(f"{name} is a saved model and brings its weights; with a checkpoint, give a model's name.")
        config = read_config(Path(name))
        model = build_saved(config, Path(name), img_size=img_size)
        state, adapt = state_of(Path(name), model, config.library), adapting(img_size, config.library)
        fit(model, state, name, Path(name) / WEIGHTS_FILE, keep="model", adapt=adapt)
        _say_all_tokens(name, config)
        return model
    if checkpoint is None:
        return _pretrained(name, img_size)
    state = read_checkpoint(checkpoint)
    model = build_for(name, state, img_size)
    fit(model, state, name, checkpoint, keep="inference", adapt=adapting(img_size))
    return model


def load_checked(
    name: str, checkpoint: str | Path | None, img_size: int | None, check: Callable[[nn.Module], T]
) -> tuple[nn.Module, T]:
    """`load_model`, and what the check says of the model.

    The model is built once. Only where its weights are still to be fetched is one without them checked before.
    """
    if checkpoint is None and not _is_here(name):
        check(build_model(name, img_size=img_size))
    model = load_model(name, checkpoint, img_size=img_size)
    return model, check(model)


def _is_here(name: str) -> bool:
    """Whether the weights of a name are on this machine: a folder's, or in timm's a file."""
    if is_saved(name):
        return True
    library, rest = split_name(name) or ("timm", name)
    if library != "timm":
        return library == "transformers" and Path(rest).expanduser().is_dir()
    return bool(_config_of(name).get("file"))


def build_for(name: str, state: Mapping[str, Tensor], img_size: int | None) -> nn.Module:
    """`build_model` with as many classes as the classifier among these weights has."""
    classifier = _config_of(name).get("classifier") or "head"
    weight = state.get(f"{classifier if isinstance(classifier, str) else classifier[0]}.weight")
    classes = {} if weight is None or weight.ndim != 2 else {"num_classes": len(weight)}
    return build_model(name, img_size=img_size, **classes)


def build_model(name: str, *, img_size: int | None = None, **settings: Any) -> nn.Module:
    """The model of that name, or of that saved folder, in eval mode with random weights; no weights are downloaded.

    Args:
        name: as in `load_model`. For one on the hub its configuration is asked for, if it is not on this machine yet.
        img_size: pixels; the model is built for that resolution.
        **settings: what else a timm model's constructor takes, such as num_classes or drop_path_rate.

    Returns:
        The model, on the CPU.

    Raises:
        ValueError: for a name, a size or a setting that does not fit.
    """
    name = os.fspath(name)
    if (other := split_name(name)) is not None:
        if settings:
            raise ValueError(f"{name} is trained by its own library: {', '.join(settings)} cannot be set here.")
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
    """The model that a saved folder describes, with all its tokens; ValueError if there is none.

    Its weights are random, but for transformers', which reads them as it builds.
    """
    try:
        if config.library != "timm":
            if settings:
                raise ValueError(f"{folder} is of {config.library}: {', '.join(settings)} cannot be set here.")
            return libraries.LIBRARIES[config.library].rebuild(config, folder, img_size).eval()
        size = {} if img_size is None else {"img_size": img_size}
        arguments: dict[str, Any] = {**config.arguments, **settings, **size, "pretrained_cfg_overlay": config.data}
        return _create(config.architecture, arguments.pop("img_size", None), pretrained=False, **arguments)
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever arguments of the wrong kind lead a library's builder to
        raise ValueError(f"{config.architecture} cannot be built as it was saved: {first_line(error)}.") from error


def state_of(folder: Path, model: nn.Module, library: str) -> dict[str, Tensor]:
    """The weights in a saved folder; of transformers' models, which bring theirs, what a method learned is added."""
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


def _config_of(name: str) -> Mapping[str, Any]:
    """What timm says of a model, without building it: where its weights are, what its classifier is called."""
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
    """Let timm know the models of vitrim's own."""
    from ..models import embedded, lvvit, multiscale  # noqa: F401


@contextmanager
def _known_tags(name: str) -> Iterator[None]:
    """Where timm refuses the tag behind a name, a ValueError that lists those that there are."""
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
    size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        with _known_tags(name):
            return timm.create_model(name, pretrained=pretrained, **size, **settings).eval()
    except (TypeError, AssertionError) as error:
        if img_size is None:
            raise
        raise ValueError(f"{name} cannot be built for images of {img_size} pixels: {first_line(error)}.") from error
