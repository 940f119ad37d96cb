"""Check that the Hugging Face hub answers before its client is used, which retries for minutes without a network."""

from __future__ import annotations


def check_hub(repository: str, filename: str | None = None) -> None:
    """Raise OSError at once if a file must be downloaded and the hub does not answer."""
    from huggingface_hub import constants, try_to_load_from_cache

    names = (filename, constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME)
    if not any(isinstance(try_to_load_from_cache(repository, name), str) for name in names if name):
        check_answer()


def check_answer() -> None:
    """Raise OSError if the hub does not answer."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # the client library's own error classes have changed with its versions
        raise OSError(f"no answer from {constants.ENDPOINT}") from error
