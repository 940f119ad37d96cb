"""Save a model into a folder, which appears complete or not at all.

huggingface_hub's PyTorchModelHubMixin is not used: it must be a base class of the model, and a reduced model keeps the
class of its library.
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
from .describe import describe
from .model_card import About, model_card


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    recipe: Any = None,
    metrics: Mapping[str, Any] | None = None,
    notes: str | None = None,
    license: str | None = None,
) -> Path:
    """Write model.safetensors, config.json and a model card into a folder, for `from_pretrained`.

    A folder that this function wrote before is replaced. Any other folder must be empty. The new files are read back
    and compared with the model before they replace anything.

    Args:
        model: A model of timm, torchvision, transformers or open_clip that vitrim can read, reduced or not. It is not
            changed. All weights are written, exit heads too, in their precision. Tied weights are written separately.
            A transformers model is written by that library, with the reduction as the entry "vitrim" of its
            config.json; the library's own from_pretrained then loads it with all tokens.
        folder: The folder to write. It is created if it does not exist.
        recipe: How the model was trained: a dataclass or plain values, for the card and config.json.
        metrics: Numbers by name, for the card and config.json.
        notes: Markdown for the card.
        license: License of the weights, as the hub names it, such as "apache-2.0".

    Returns:
        The folder.

    Raises:
        ValueError: If the model could not be built again from what is saved.
        OSError: If the folder cannot be written.
    """
    return write_folder(model, folder, About(recipe, metrics, notes, license))


def write_folder(model: nn.Module, folder: str | Path, about: About, source: str | None = None) -> Path:
    """`save_pretrained`. source: what the card's example loads, if not the folder."""
    target = Path(folder).expanduser().resolve()
    _check_target(target)
    config = _config(model, about.recipe, about.metrics)
    text, state = config.to_json(), _plain(model.state_dict())
    with _replacing(target) as new:
        if config.library == "transformers":
            transformers.write(model, new, text, state)
        else:
            _write(new / CONFIG_FILE, text)
            _write_weights(new / WEIGHTS_FILE, state)
        for path in new.glob("*.safetensors"):
            shutil.copymode(new / CONFIG_FILE, path)  # safetensors makes files that only their owner can read
        _write(new / CARD_FILE, _card(new, state, config, about, source or target.name))
    return target


def _config(model: nn.Module, recipe: Any, metrics: Mapping[str, Any] | None) -> Config:
    found, backbone = find_stack(model), read_backbone(model)
    library = library_of(model) or "timm"  # vitrim's own models are registered with timm
    method = None if found is None else settled(found.stack.method, found.stack.spec)
    if is_dataclass(recipe) and not isinstance(recipe, type):
        recipe = asdict(recipe)
    if metrics is not None and not isinstance(metrics, Mapping):
        raise ValueError(f"metrics must be numbers by name, such as {{'top-1': 79.1}}, not {shown(repr(metrics))}.")
    versions = {"vitrim": __version__, library: version(library).partition(" ")[2], "torch": str(torch.__version__)}
    return Config(
        *describe(model, library),
        method,
        versions,
        recipe,
        None if metrics is None else dict(metrics),
        None if found is None else _pooling(backbone, found),
        library,
    )


def _pooling(backbone: Backbone, found: Installed) -> bool | None:
    """Whether the reduced model pools patches; None if the head of the model implies it."""
    pools = found.stack.spec.pools_patches
    return None if pools == backbone.spec.pools_patches else pools


def settled(method: Method, spec: ViTSpec) -> Method:
    """Return the method in a form that resolves to the same method again for the same model.

    Resolved settings are tuples, but to ToMe a pair of numbers means something else than a list of two.
    """
    for each in (method, _with_lists(method)):
        with suppress(ValueError):
            if each.built_for(spec) == method:
                return each
    raise ValueError(f"{method} does not survive a save and load on {spec.name}, so it cannot be saved.")


def _with_lists(method: Method) -> Method:
    settings = plain_settings(method).items()
    lists: dict[str, Any] = {name: list(value) for name, value in settings if isinstance(value, tuple)}
    return replace(method, **lists)


def _plain(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU, each with its own memory, as safetensors requires."""
    if any(type(value) is not Tensor for value in state.values()):
        raise ValueError("model.safetensors cannot hold quantised weights: save the model before it is quantised.")
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


def _card(new: Path, state: Mapping[str, Tensor], config: Config, about: About, source: str) -> str:
    """Load the folder, check its weights, and return the card; OSError if they are not the ones that were written."""
    with torch.random.fork_rng(devices=[]):  # saving must not change the random numbers of a training run
        again = load_saved(new)
        got = again.state_dict()
        if set(got) != set(state) or not all(_same_bytes(got[key], state[key]) for key in state):
            raise OSError("the weights that were read back differ from those written: check the disk")
        return model_card(again.float(), config, about, source)


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file: name a folder.")
    if target.is_dir() and any(target.iterdir()) and not is_ours(target):
        others = foreign_files(target)
        what = f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else "other files"
        raise ValueError(f"{target} holds {what}, which saving would overwrite: name a new folder.")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the target at the end. After any error the target is unchanged."""
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(target) as new:
            yield new
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"the model could not be saved to {target}, which is unchanged: {reason}.") from error


def _write_weights(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
