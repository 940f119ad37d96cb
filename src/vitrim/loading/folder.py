"""What a saved folder holds, and its config.json: which model to build, for which images, and how it is reduced."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.method import Method
from ..text import shown
from .method_json import method_from_json, method_to_json
from .ranges import ARGUMENTS, DATA, check

FORMAT = 1
MARK = "vitrim_format"  # its key: by it a folder of ours is known
WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".tar")

# What timm's description of a model may say here: how images are prepared and what the classes are called. Addresses
# and files of weights are left out on purpose: a folder must not lead anywhere else.
DATA_KEYS = (
    *("input_size", "test_input_size", "mean", "std", "crop_pct", "test_crop_pct", "crop_mode", "interpolation"),
    *("label_names", "label_descriptions"),
)
# Arguments of timm's builders that fetch or read something, or change what is built into something else.
REFUSED_ARGUMENTS = (
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir"),
    *("pretrained_filter_fn", "pretrained_model_args", "checkpoint_path", "features_only", "feature_cfg", "pruned"),
    *("scriptable", "exportable", "no_jit", "device", "dtype"),
)


@dataclass(frozen=True)
class Config:
    """Everything that config.json says."""

    architecture: str  # timm's name
    arguments: Mapping[str, Any]  # for timm's builder: num_classes, img_size, in_chans, and what else was not default
    data: Mapping[str, Any]  # entries of timm's pretrained_cfg, see DATA_KEYS
    method: Method | None  # None: the model carries all its tokens
    versions: Mapping[str, str] = field(default_factory=dict)  # of vitrim, timm and torch, when it was written
    recipe: Any = None  # how it was trained, if the user says so
    metrics: Mapping[str, Any] | None = None  # what it reaches, if the user says so
    pools_patches: bool | None = None  # what `reduce_tokens` was told, where that is not what the model's head says

    def to_json(self) -> str:
        """The text of config.json; ValueError for what it cannot hold."""
        content = {
            MARK: FORMAT,
            **{name: getattr(self, name) for name in ("architecture", "arguments", "data", "recipe", "metrics")},
            "method": None if self.method is None else method_to_json(self.method),
            "versions": self.versions,
        }
        if self.pools_patches is not None:
            content["pools_patches"] = self.pools_patches
        try:
            return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"recipe and metrics must be plain values, for they go into a JSON file: {error}."
            ) from error


def read_config(folder: Path) -> Config:
    """The config of a saved folder. ValueError, one line, for a folder or a config.json that is not as we write it."""
    check_folder(folder)
    path = folder / CONFIG_FILE
    content = _read_json(path)
    if MARK not in content:
        raise ValueError(
            f"{path} was not written by vitrim's save_pretrained: it has no {MARK}{_other(content, folder)}."
        )
    if content[MARK] != FORMAT:
        raise ValueError(
            f"{path} has format {shown(repr(content[MARK]))}, and this version of vitrim reads format {FORMAT}: "
            f"{_hint(content.get('versions'))}."
        )
    try:
        return _checked({key: value for key, value in content.items() if key != MARK})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_folder(folder: Path) -> Path:
    """The folder, if it has a config and weights that are safe to read; else ValueError or FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    if not (folder / WEIGHTS_FILE).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds its weights in {pickles[0]}, a pickle, which can run any code when it is loaded; only "
                f"{WEIGHTS_FILE} is read: save the model again with vitrim.save_pretrained."
            )
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {WEIGHTS_FILE}.")
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {CONFIG_FILE}.")
    return folder


def is_ours(folder: Path) -> bool:
    """Whether save_pretrained, of any version, wrote this folder, and nothing else lies in it."""
    try:
        return MARK in _read_json(folder / CONFIG_FILE) and not foreign_files(folder)
    except (ValueError, OSError):
        return False


def foreign_files(folder: Path) -> list[str]:
    """Names in the folder that save_pretrained does not write."""
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not the config of a saved model.")
    return content


def _checked(content: dict[str, Any]) -> Config:
    known = {"architecture": str, "arguments": dict, "data": dict, "method": (dict, type(None)), "versions": dict}
    may_be_none = {"metrics": (dict, type(None)), "pools_patches": (bool, type(None))}
    kinds: dict[str, Any] = {**known, "recipe": object, **may_be_none}
    content = {"pools_patches": None} | content  # written where it says something
    _refuse_others("key", content, kinds)
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"{key} is missing.")
        if not isinstance(content[key], kind):
            raise ValueError(f"{key} cannot be {shown(repr(content[key]))}.")
    if not re.fullmatch(r"\w+", content["architecture"]):  # timm would look other names up elsewhere
        raise ValueError(
            f"architecture must be the name of a model in timm, not {shown(repr(content['architecture']))}."
        )
    _refuse_others("data entry", content["data"], DATA_KEYS)
    refused = sorted(set(content["arguments"]) & set(REFUSED_ARGUMENTS))
    if refused:
        raise ValueError(f"the argument {', '.join(refused)} is no business of a saved model.")
    check("argument", content["arguments"], ARGUMENTS)
    check("data entry", content["data"], DATA)
    tuples = {key: _tuples(content[key]) for key in ("arguments", "data")}
    method = None if content["method"] is None else method_from_json(content["method"])
    return Config(**content | tuples | {"method": method})


def _refuse_others(what: str, given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {shown(', '.join(unknown))}; known are {', '.join(known)}.")


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, which is what timm has in their place."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _other(content: Mapping[str, Any], folder: Path) -> str:
    """What to do with the folder of another library."""
    if "pretrained_cfg" in content:
        return f"; it is one of timm's: name the model local-dir:{folder}"
    return "; load_model, or --model, takes a folder of transformers'" if "model_type" in content else ""


def _hint(versions: object) -> str:
    writer = versions.get("vitrim") if isinstance(versions, dict) else None
    return f"it was written by vitrim {shown(str(writer))}" if writer else "it is from another version of vitrim"
