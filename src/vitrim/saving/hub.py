"""A model on the Hugging Face hub: `push_to_hub`, which uploads what `save_pretrained` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..loading.folder import FILES
from ..loading.network import check_answer
from ..temporary import temporary_folder
from .write import write_folder


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    recipe: Any = None,
    metrics: Mapping[str, Any] | None = None,
    notes: str | None = None,
    license: str | None = None,
) -> str:
    """Save the model and upload it to a repository, made if need be.

    Other files of the repository stay; its README.md is replaced by the card.

    Args:
        model: as for `save_pretrained`.
        repo_id: owner/name.
        private, token, revision, commit_message: as huggingface_hub takes them; the revision is a branch that exists.
        recipe, metrics, notes, license: as for `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        ValueError: as from `save_pretrained`, and for a bad repo_id.
        OSError: where the hub does not take it.
    """
    import huggingface_hub

    _check_repository(repo_id)
    about: dict[str, Any] = {"recipe": recipe, "metrics": metrics, "notes": notes, "license": license}
    with temporary_folder() as beside:
        folder = write_folder(model, beside / "model", source=repo_id, **about)
        try:
            check_answer()
            api = huggingface_hub.HfApi(token=token, library_name="vitrim")
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message or "Model saved with vitrim",
                allow_patterns=list(FILES),
            )
        except Exception as error:  # the client library's own error classes have changed with its versions
            reason = str(error).strip().partition("\n")[0]
            raise OSError(f"the model could not be uploaded to {repo_id}: {reason}.") from error
    return str(commit.commit_url)


def _check_repository(repo_id: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo_id:
        raise ValueError(f"a repository on the hub is owner/name, not {repo_id!r}.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"{repo_id!r} is no name for a repository on the hub: {error}") from error
