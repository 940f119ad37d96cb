"""Upload a model to the Hugging Face hub, as the files that `save_pretrained` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..loading.folder import FILES
from ..loading.network import check_answer
from ..temporary import temporary_folder
from ..text import first_line
from .model_card import About
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
    """Save the model and upload it to a repository, which is created if it does not exist.

    Its README.md is replaced by the model card. Other files in the repository stay.

    Args:
        model: As for `save_pretrained`.
        repo_id: owner/name.
        private, token, revision, commit_message: As in huggingface_hub. The revision is an existing branch.
        recipe, metrics, notes, license: As for `save_pretrained`.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: As from `save_pretrained`, and if repo_id is not valid.
        OSError: If the upload fails.
    """
    import huggingface_hub

    _check_repository(repo_id)
    with temporary_folder() as beside:
        folder = write_folder(model, beside / "model", About(recipe, metrics, notes, license), source=repo_id)
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
        except Exception as error:  # the error classes of huggingface_hub change with its versions
            raise OSError(f"the model could not be uploaded to {repo_id}: {first_line(error)}.") from error
    return str(commit.commit_url)


def _check_repository(repo_id: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo_id:
        raise ValueError(f"a repository on the hub is written owner/name, not {repo_id!r}.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"{repo_id!r} is not a valid name of a repository on the hub: {error}") from error
