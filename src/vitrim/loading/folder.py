"""The files of a saved folder, and its config.json: the model to build, its image preparation, and its reduction."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..core.notice import VitrimWarning
from ..kinds import is_whole, read_object
from ..text import shown
from .method_json import method_from_json, method_to_json
from .ranges import ARGUMENTS, DATA, check

# Format 1 holds a timm model, format 2 one of another library. In a config.json of transformers it is the entry ENTRY.
FORMATS = {1: ("timm",), 2: ("torchvision", "open_clip", "transformers")}
MARK, ENTRY = "vitrim_format", "vitrim"  # the keys that identify a folder written by vitrim
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
PROCESSOR_FILE = "preprocessor_config.json"  # how transformers prepares images
LEARNED_FILE = "vitrim.safetensors"  # what a method learned, beside weights that transformers reads
FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, PROCESSOR_FILE, LEARNED_FILE)
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".tar")

# The entries of timm's pretrained_cfg that are saved: image preparation and class names. URLs and files of weights are
# left out on purpose: a saved folder must not point anywhere else.
DATA_KEYS = (
    *("input_size", "test_input_size", "mean", "std", "crop_pct", "test_crop_pct", "crop_mode", "interpolation"),
    *("label_names", "label_descriptions"),
)
OTHER_DATA = {
    "torchvision": ("crop_size", "resize_size", "interpolation", "antialias", "mean", "std"),
    "open_clip": ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"),
    "transformers": (),
}
# Arguments of timm's builders that read files, use the network, or change the kind of model. A folder may not set them.
REFUSED_ARGUMENTS = (
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir"),
    *("pretrained_filter_fn", "pretrained_model_args", "checkpoint_path", "features_only", "feature_cfg", "pruned"),
    *("scriptable", "exportable", "no_jit", "device", "dtype"),
)


@dataclass(frozen=True)
class Config:
    """The content of config.json."""

    architecture: str  # name of the model or class in its library
    arguments: Mapping[str, Any]  # of its builder; timm: num_classes, img_size, in_chans, and all that is not default
    data: Mapping[str, Any]  # image preparation; timm: the DATA_KEYS of its pretrained_cfg
    method: Method | None  # None: the model carries all its tokens
    versions: Mapping[str, str] = field(default_factory=dict)  # of vitrim, the library and torch at the time of saving
    recipe: Any = None  # how the model was trained, as given by the user
    metrics: Mapping[str, Any] | None = None  # its results, as given by the user
    pools_patches: bool | None = None  # the argument of `reduce_tokens`; None: as the model's head implies
    library: str = "timm"

    def to_json(self) -> str:
        """Return the text of config.json; ValueError if a value cannot be written as JSON."""
        own = {MARK: 1} if self.library == "timm" else {MARK: 2, "library": self.library}
        content = {
            **own,
            **{name: getattr(self, name) for name in ("architecture", "arguments", "data", "recipe", "metrics")},
            "method": None if self.method is None else method_to_json(self.method),
            "versions": self.versions,
        }
        if self.pools_patches is not None:
            content["pools_patches"] = self.pools_patches
        try:
            return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ValueError(f"recipe and metrics must be plain values that JSON can hold: {error}.") from error


def read_config(folder: Path) -> Config:
    """Read the config of a saved folder; ValueError, in one line, if the folder or its config.json is not valid."""
    check_folder(folder)
    path = folder / CONFIG_FILE
    content = _read_json(path)
    if is_of_transformers(content):
        content = _entry(content)
    if MARK not in content:
        raise ValueError(f"{path} was not written by vitrim.save_pretrained (no {MARK}){_other(content, folder)}.")
    if not is_whole(content[MARK]) or content[MARK] not in FORMATS:
        raise ValueError(
            f"{path} has format {shown(repr(content[MARK]))}; this version of vitrim reads formats 1 and 2 "
            f"({_hint(content.get('versions'))})."
        )
    try:
        return _checked({key: value for key, value in content.items() if key != MARK}, FORMATS[content[MARK]])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_folder(folder: Path) -> Path:
    """Return the folder if it has a config and weights that are safe to read; else ValueError or FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    if not (folder / WEIGHTS_FILE).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds its weights in {pickles[0]}, a pickle, which can run code when it is loaded. Only "
                f"{WEIGHTS_FILE} is read: save the model again with vitrim.save_pretrained."
            )
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {WEIGHTS_FILE}.")
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {CONFIG_FILE}.")
    return folder


def is_ours(folder: Path) -> bool:
    """Whether save_pretrained wrote this folder and it holds no other files."""
    try:
        content = _read_json(folder / CONFIG_FILE)
        return (MARK in content or has_entry(content)) and not foreign_files(folder)
    except (ValueError, OSError):
        return False


def foreign_files(folder: Path) -> list[str]:
    """Names of files in the folder that save_pretrained does not write."""
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ValueError(f"{path} is not the config of a saved model ({error}).") from error


def has_reduction(content: object) -> bool:
    """Whether a config.json of transformers names a method."""
    return has_entry(content) and isinstance(content[ENTRY].get("method"), dict)  # type: ignore[index]


def say_all_tokens(name: str, method: str) -> None:
    """Warn that a saved reduction is not applied."""
    warnings.warn(
        f"{name} was saved with {method}, which is not applied here: vitrim.from_pretrained and `vitrim evaluate` "
        "apply it.",
        VitrimWarning,
        stacklevel=3,
    )


def is_of_transformers(content: object) -> bool:
    """Whether the content is that of a config.json of transformers."""
    return isinstance(content, dict) and {"model_type", "architectures"} <= set(content)


def has_entry(content: object) -> bool:
    """Whether the content is that of a config.json of transformers with vitrim's entry."""
    return isinstance(content, dict) and isinstance(content.get(ENTRY), dict) and MARK in content[ENTRY]


def _entry(content: Mapping[str, Any]) -> dict[str, Any]:
    """vitrim's entry in a config.json of transformers; a default one if transformers wrote the folder."""
    if has_entry(content):
        return dict(content[ENTRY])
    named = content["architectures"]
    architecture = named[0] if isinstance(named, list) and named else named
    plain = Config(architecture, {}, {}, None, library="transformers").to_json()
    return dict(json.loads(plain))


def _checked(content: dict[str, Any], libraries: tuple[str, ...]) -> Config:
    known = {"architecture": str, "arguments": dict, "data": dict, "method": (dict, type(None)), "versions": dict}
    may_be_none = {"metrics": (dict, type(None)), "pools_patches": (bool, type(None))}
    kinds: dict[str, Any] = {**known, "recipe": object, **may_be_none}
    content = {"pools_patches": None, "library": "timm"} | content  # defaults, which are not written
    kinds["library"] = str
    _refuse_others("key", content, kinds)
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"{key} is missing.")
        if not isinstance(content[key], kind):
            raise ValueError(f"{key} cannot be {shown(repr(content[key]))}.")
    library, name = content["library"], content["architecture"]
    if library not in libraries:
        raise ValueError(f"library must be one of {', '.join(libraries)}, not {shown(repr(library))}.")
    if not re.fullmatch(r"\w+" if library != "open_clip" else r"[\w.-]+", name):  # no prefix of a hub or folder
        raise ValueError(f"architecture must be the name of a model in {library}, not {shown(repr(name))}.")
    _refuse_others("data entry", content["data"], OTHER_DATA.get(library, DATA_KEYS))
    refused = sorted(set(content["arguments"]) & set(REFUSED_ARGUMENTS))
    if refused:
        raise ValueError(f"a saved model may not set the argument {', '.join(refused)} of its builder.")
    inner = [each for each in content["arguments"].values() if isinstance(each, dict)]
    for arguments in (content["arguments"], *inner):
        check("argument", arguments, ARGUMENTS)
    check("data entry", content["data"], DATA if library == "timm" else {})
    tuples = {key: _tuples(content[key]) for key in ("arguments", "data")}
    method = None if content["method"] is None else method_from_json(content["method"])
    return Config(**content | tuples | {"method": method})


def _refuse_others(what: str, given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {shown(', '.join(unknown))}; known are {', '.join(known)}.")


def _tuples(value: Any) -> Any:
    """Replace JSON's lists by tuples, as timm has them."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _other(content: Mapping[str, Any], folder: Path) -> str:
    """Advice for a folder that timm wrote."""
    return f": it is a folder of timm, so name the model local-dir:{folder}" if "pretrained_cfg" in content else ""


def _hint(versions: object) -> str:
    writer = versions.get("vitrim") if isinstance(versions, dict) else None
    return f"it was written by vitrim {shown(str(writer))}" if writer else "it was written by another version"
