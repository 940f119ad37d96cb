"""Load a saved model from a folder, or from a repository on the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..api import create_method, reduce_tokens
from ..backbones.reader import find_stack
from ..core.method import Method
from ..text import first_line, shown
from .build import build_saved, state_of
from .folder import CONFIG_FILE, FILES, WEIGHTS_FILE, Config, read_config
from .libraries import adapting
from .network import check_answer
from .weights import FLOATS, Keep, fit

SAVED = "saved"  # the method that the folder names
DESCRIBED = "the model that its config describes"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def from_pretrained(
    folder_or_repo: str | Path,
    *,
    exits: bool = True,
    method: Method | str | None = SAVED,
    revision: str | None = None,
) -> nn.Module:
    """Load a model that `save_pretrained` wrote: in eval mode, on the CPU, in the precision it was saved in.

    Args:
        folder_or_repo: A folder, which is read without the network. If there is no such folder: owner/name of a
            repository on the Hugging Face hub. Only safetensors files are read, so no code in them is ever run.
        exits: Whether to load the exit heads (`Exits`). Without them the model is the plain reduced one.
        method: A method, or its name, to apply in place of the saved one. None gives the model with all its tokens.
        revision: A branch, tag or commit of the repository.

    Returns:
        The model, reduced as it was saved, or by `method`.

    Raises:
        ValueError: If the config or the weights do not fit.
        OSError: If nothing is found (FileNotFoundError), or the hub does not answer.
    """
    path = Path(folder_or_repo).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{path} is a folder and has no revision {revision!r}: leave revision out.")
        return load_saved(path, exits=exits, method=method)
    if isinstance(folder_or_repo, Path) or not REPOSITORY.fullmatch(folder_or_repo):
        raise FileNotFoundError(
            f"there is no folder {shown(str(folder_or_repo))}; a repository on the hub is written owner/name."
        )
    return load_saved(_fetch(folder_or_repo, revision), exits=exits, method=method)


def load_saved(
    folder: Path, *, exits: bool = True, method: Method | str | None = SAVED, img_size: int | None = None
) -> nn.Module:
    """`from_pretrained` for a folder. img_size: another resolution; position embeddings are resampled to it."""
    config = read_config(folder)
    acts = _acting(config, exits, method)
    model = build_saved(config, folder, img_size=img_size)
    state = state_of(folder, model, config.library)
    if acts is not None:
        try:
            reduce_tokens(model, acts, pools_patches=config.pools_patches)
            found = find_stack(model)
            assert found is not None
            found.stack.method.fits(found.stack.spec)
        except (ValueError, OSError):
            raise
        except Exception as error:  # a setting of the wrong type can raise anything
            reason = f"{shown(str(acts))} does not fit {config.architecture}: {first_line(error)}"
            raise ValueError(f"{folder / CONFIG_FILE}: {reason}.") from error
    tensors: list[tuple[str, Any]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if name in state and tensor.is_floating_point() and state[name].dtype in FLOATS:  # others do not fit
            tensor.data = tensor.data.to(state[name].dtype)  # load_state_dict would round to the model's dtype
    keep: Keep = "model" if method != SAVED else "all" if exits else "inference"
    fit(model, state, DESCRIBED, folder / WEIGHTS_FILE, keep=keep, adapt=adapting(img_size, config.library))
    return model


def saved_method(folder: Path, *, exits: bool = True) -> Method | None:
    """The method named in a saved folder; None if the model carries all its tokens."""
    return _acting(read_config(folder), exits, SAVED)


def _acting(config: Config, exits: bool, method: Method | str | None) -> Method | None:
    wanted = config.method if method == SAVED else method
    if isinstance(wanted, str):
        wanted = create_method(wanted)
    return replace(wanted, exits=None) if isinstance(wanted, Method) and not exits else wanted


def _fetch(repository: str, revision: str | None) -> Path:
    """Download the files of a repository; without the network, take them from the cache."""
    import huggingface_hub

    try:
        check_answer()
        answer: OSError | None = None
    except OSError as error:
        answer = error
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(FILES), local_files_only=answer is not None
        )
    except Exception as error:  # the client library's own error classes have changed with its versions
        at = "" if revision is None else f" at {revision}"
        reason = first_line(error) if answer is None else f"{answer}, and it is not in the cache"
        raise OSError(
            f"there is no folder {repository}, and it cannot be downloaded{at} from the hub: {reason}."
        ) from error
    return Path(found)
