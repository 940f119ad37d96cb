"""A model in a folder: `save_pretrained`. The folder appears whole or not at all.

Functions, and not huggingface_hub's PyTorchModelHubMixin: the mixin has to be a base class of the model, and a model
with fewer tokens keeps the class it came with, which is timm's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.reader import Backbone, Installed, find_stack, read_backbone, version
from ..core.method import Method, plain_settings
from ..core.spec import ViTSpec
from ..facts import library_of
from ..loading.folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Config, foreign_files, is_ours
from ..loading.from_pretrained import load_saved
from ..store import replacing_folder
from ..text import shown
from ..version import __version__
from . import transformers
from .card import About, render
from .describe import describe


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    recipe: Any = None,
    metrics: Mapping[str, Any] | None = None,
    notes: str | None = None,
    license: str | None = None,
) -> Path:
    """Write model.safetensors, config.json and a model card into the folder; `from_pretrained` reads it.

    A folder that this function wrote before is replaced; any other that is not empty is refused. What was written is
    read back and compared before it takes its place.

    Args:
        model: one that vitrim reads, of timm, torchvision, transformers or open_clip, reduced or not; it stays as it
            is. All weights are written, exit heads too, in their precision. Weights that share memory are written once
            each. A model of transformers is written by that library, with the reduction as the entry "vitrim" of its
            config.json: its own from_pretrained gives the model with all tokens.
        folder: where to; it is made if need be.
        recipe: how it was trained (a dataclass or plain values), for the card and config.json.
        metrics: numbers by name, for the card and config.json.
        notes: Markdown for the card.
        license: of the weights, as the hub names it, say "apache-2.0".

    Returns:
        The folder.

    Raises:
        ValueError: for a model that could not be built again.
        OSError: where the folder cannot be written.
    """
    return write_folder(model, folder, recipe=recipe, metrics=metrics, notes=notes, license=license)


def write_folder(
    model: nn.Module,
    folder: str | Path,
    *,
    source: str | None = None,
    recipe: Any = None,
    metrics: Mapping[str, Any] | None = None,
    notes: str | None = None,
    license: str | None = None,
) -> Path:
    """`save_pretrained`. source: what the card says to load, if not the folder."""
    place = Path(folder).expanduser().resolve()
    _check_place(place)
    config = _config(model, recipe, metrics)
    text, state = config.to_json(), _plain(model.state_dict())
    with _replacing(place) as new:
        if config.library == "transformers":
            transformers.write(model, new, text, state)
        else:
            _write(new / CONFIG_FILE, text)
            _write_weights(new / WEIGHTS_FILE, state)
        for path in new.glob("*.safetensors"):
            shutil.copymode(new / CONFIG_FILE, path)  # safetensors' files are for their owner alone
        card = _card(new, state, config, About(source or place.name, license, notes))
        _write(new / CARD_FILE, card)
    return place


def _config(model: nn.Module, recipe: Any, metrics: Mapping[str, Any] | None) -> Config:
    found, backbone = find_stack(model), read_backbone(model)
    library = library_of(model) or "timm"  # vitrim's own are registered there
    method = None if found is None else settled(found.stack.method, found.stack.spec)
    if is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = asdict(recipe)
    versions = _versions(library)
    if metrics is not None and not isinstance(metrics, Mapping):
        raise ValueError(f"metrics are numbers by name, such as {{'top-1': 79.1}}, not {shown(repr(metrics))}.")
    metrics = None if metrics is None else dict(metrics)
    return Config(
        *describe(model, library),
        method,
        versions,
        recipe,
        metrics,
        None if found is None else _pooling(backbone, found),
        library,
    )


def _pooling(backbone: Backbone, found: Installed) -> bool | None:
    """What the tokens were prepared for, where the head alone would not say so."""
    pools = found.stack.spec.pools_patches
    return None if pools == backbone.spec.pools_patches else pools


def settled(method: Method, spec: ViTSpec) -> Method:
    """The method, written so that resolving it for the same model gives the same method again.

    Resolved settings are tuples, and ToMe reads a pair of numbers as something else than a list of two.
    """
    for each in (method, _with_lists(method)):
        with suppress(ValueError):
            if each.built_for(spec) == method:
                return each
    raise ValueError(f"{method} is not what it makes of itself on {spec.name}, so it could not be read again.")


def _with_lists(method: Method) -> Method:
    settings = plain_settings(method).items()
    lists: dict[str, Any] = {name: list(value) for name, value in settings if isinstance(value, tuple)}
    return replace(method, **lists)


def _versions(library: str) -> dict[str, str]:
    return {"vitrim": __version__, library: version(library).partition(" ")[2], "torch": str(torch.__version__)}


def _plain(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors on the CPU, each whole and with memory of its own, as the file format wants them."""
    if any(type(value) is not Tensor for value in state.values()):
        raise ValueError("the model's weights are quantised, which model.safetensors cannot hold: save it before that.")
    if any(value.is_meta for value in state.values()):
        raise ValueError("the model is on the meta device and has no weights to save.")
    seen: set[int] = set()
    plain = {}
    for key, value in state.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        plain[key] = tensor
    return plain


def _card(new: Path, state: Mapping[str, Tensor], config: Config, about: About) -> str:
    """The card, of the model that was read back; OSError if that is not what was written."""
    with torch.random.fork_rng(devices=[]):  # saving must not change what a training run draws next
        again = load_saved(new)
        got = again.state_dict()
        if set(got) != set(state) or not all(_same_bytes(got[key], state[key]) for key in state):
            raise OSError("what was read back is not what was written: is the disk sound?")
        return render(again.float(), config, about)


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _check_place(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file: name a folder.")
    if place.is_dir() and any(place.iterdir()) and not is_ours(place):
        others = foreign_files(place)
        what = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else "files of something else"
        raise ValueError(f"{place} holds {what}, which saving would overwrite: name a new folder.")


@contextmanager
def _replacing(place: Path) -> Iterator[Path]:
    """A new folder beside the place, which takes it at the end; after any error the place is as it was."""
    from safetensors import SafetensorError

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(place) as new:
            yield new
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"the model could not be saved to {place}, which is as it was: {reason}.") from error


def _write_weights(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
