"""Load models of transformers, from a repository on the hub or a folder that its save_pretrained wrote."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ..core.notice import VitrimWarning
from ..facts import FACTS, import_module
from ..measure.image_processor import check_size, preparation, processor_of
from ..quiet import quiet
from ..text import first_line, shown
from .file_kinds import check_kinds
from .folder import ENTRY, PROCESSOR_FILE, Config, has_reduction, say_all_tokens
from .network import check_hub

TOWERS = {  # model of images and text -> the class of its vision tower
    "CLIPModel": "CLIPVisionModelWithProjection",
    "MetaClip2Model": "MetaClip2VisionModelWithProjection",
    "SiglipModel": "SiglipVisionModel",
}

ATTENTION = "attn_implementation"
EXAMPLE, ADVICE, RESAMPLE = "google/vit-base-patch16-224, or a folder", "name a folder", None
FACT = FACTS["transformers"]
CLASSIFIER, WEIGHTS = FACT.classifiers, "model.safetensors"
MAY_LACK = ("pooler.", "mask_token")  # classes and features do not need these weights
LAYER = re.compile(r"^(?!.*text).*layers?\.\d+\.")  # a weight of a block, unless of a text tower
Make = Callable[[str, Any, Any], Any]  # makes a model from its name, class and configuration


def build(name: str, img_size: int | None) -> nn.Module:
    """Build the model with random weights."""
    return _model(name, img_size, lambda _, cls, config: cls(config))


def load(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """Load the model with the weights in its folder or repository."""
    if checkpoint is not None:
        raise ValueError(f"transformers:{name} has its own weights: name the folder of the weights instead.")
    import_module("transformers.utils.logging").disable_progress_bar()
    return _model(name, img_size, _with_weights)


def candidates(model: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the model's class and its attention implementation. The rest is in its config.json."""
    cls = type(model)
    if getattr(import_module("transformers"), cls.__name__, None) is not cls:
        raise ValueError(
            f"{cls.__module__}.{cls.__name__} is not a class of transformers itself, so it could not be loaded again: "
            "save its state_dict."
        )
    yield cls.__name__, {ATTENTION: model.config._attn_implementation}, {}


def rebuild(config: Config, folder: Path, img_size: int | None) -> nn.Module:
    """Load the model in a saved folder, with its weights."""
    library: Any = import_module("transformers")
    if img_size is not None:
        raise ValueError(f"--img-size does not apply to {folder}: set image_size in its configuration.")
    cls = _class(library, str(folder), config.architecture)
    attention = config.arguments.get(ATTENTION, "sdpa")
    if attention not in ("sdpa", "eager"):
        raise ValueError(f"{folder}: {ATTENTION} must be sdpa or eager, not {shown(attention)}.")
    import_module("transformers.utils.logging").disable_progress_bar()
    model = _with_weights(str(folder), cls, attn_implementation=attention).eval()
    if (folder / PROCESSOR_FILE).is_file():
        vision = getattr(model.config, "vision_config", model.config)
        model.image_preparation = preparation(str(folder), processor_of(str(folder)), vision)
    model.num_classes = model.config.num_labels if CLASSIFIER in cls.__name__ else 0
    return model


def is_folder(name: str) -> bool:
    """Whether the name is a folder on this machine and not a repository."""
    return Path(os.path.expanduser(name)).is_dir()  # Path.expanduser raises for an unknown user


def _model(name: str, img_size: int | None, make: Make) -> nn.Module:
    library: Any = import_module("transformers")
    if img_size is not None:
        raise ValueError(f"--img-size does not apply to transformers:{name}: set image_size in its configuration.")
    path = os.path.expanduser(name)
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise FileNotFoundError(f"there is no folder {name}.")
    if not Path(path).is_dir():
        check_hub(path, WEIGHTS)
    try:
        config, processor = library.AutoConfig.from_pretrained(path), processor_of(path)
    except Exception as error:  # transformers raises various errors for odd settings
        raise ValueError(
            f"transformers:{name} has no readable configuration and image processor: {first_line(error)}."
        ) from error
    cls, config = _class_and_config(library, name, config)
    if CLASSIFIER in cls.__name__ and (classes := _classes_in(path)) not in (None, config.num_labels):
        config.num_labels = classes  # the head was replaced without changing the configuration
    vision = getattr(config, "vision_config", config)
    prepared = preparation(name, processor, vision)
    check_size(name, cls, vision, prepared)
    if has_reduction(vars(config)):
        say_all_tokens(name, shown(getattr(config, ENTRY)["method"].get("class")))
    try:
        model = make(path, cls, config)
    except (ValueError, OSError):
        raise
    except Exception as error:  # transformers raises various errors for odd settings
        raise ValueError(f"transformers:{name} cannot be built from its configuration: {first_line(error)}.") from error
    model.image_preparation = prepared
    model.num_classes = config.num_labels if CLASSIFIER in cls.__name__ else 0
    return model


def _class_and_config(library: Any, name: str, config: Any) -> tuple[Any, Any]:
    """The model's class and configuration; those of the vision tower if the model also takes text."""
    named = config.architectures
    architecture = named[0] if isinstance(named, (list, tuple)) and named and isinstance(named[0], str) else str(named)
    cls = _class(library, f"transformers:{name}", TOWERS.get(architecture, architecture))
    if architecture not in TOWERS:
        return cls, config
    vision = config.vision_config
    if hasattr(vision, "projection_dim"):
        vision.projection_dim = config.projection_dim  # the weights follow the whole model's value
    return cls, vision


def _class(library: Any, source: str, architecture: str) -> Any:
    """The class of that name. Raises ValueError if transformers has no such model."""
    cls = getattr(library, architecture, None)
    if not (isinstance(cls, type) and issubclass(cls, library.PreTrainedModel)):
        raise ValueError(f"{source} names the architecture {shown(architecture)}; transformers has no such model.")
    return cls


def _with_weights(path: str, cls: Any, config: Any = None, **settings: Any) -> Any:
    from safetensors import SafetensorError

    check_kinds(_files(path))
    try:
        with quiet():  # what it reports is checked here
            model, found = cls.from_pretrained(
                path, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **settings
            )
    except SafetensorError as error:
        raise ValueError(f"the safetensors file in {path} is damaged ({first_line(error)}).") from error
    may_lack = () if cls.__name__ in TOWERS.values() else MAY_LACK
    missing = sorted(found["missing_keys"])
    findings = [
        *(f"{each[0]} has another shape" for each in sorted(found["mismatched_keys"])),
        *(f"{key} is missing" for key in missing if not any(part in key for part in may_lack)),
        *(f"{key} has no place there" for key in sorted(found["unexpected_keys"]) if LAYER.search(key)),
    ]
    if findings:
        raise ValueError(
            f"the weights in {path} do not fit the {cls.__name__} in its configuration: {shown(findings[0])}."
        )
    if missing:
        warnings.warn(f"{path} has no weights for {shown(missing[0])}: they are random.", VitrimWarning, stacklevel=3)
    return model


def _files(path: str) -> list[Path]:
    """The safetensors files of a folder, or the one of a repository if it is in the cache."""
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.safetensors"))
    found = import_module("huggingface_hub").try_to_load_from_cache(path, WEIGHTS)
    return [Path(found)] if isinstance(found, str) else []


def _classes_in(path: str) -> int | None:
    """The number of classes of the head in a folder's weights; None if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path) / WEIGHTS, "pt") as weights:
            keys = set(weights.keys())
            heads = [f"{name}.weight" for name in FACT.heads if f"{name}.weight" in keys]
            shapes = [weights.get_slice(head).get_shape() for head in heads]
    except (OSError, SafetensorError):
        return None
    return shapes[0][0] if shapes and len(shapes[0]) == 2 else None
