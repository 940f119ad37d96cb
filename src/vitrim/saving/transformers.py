"""Save a transformers model as its library does, with the reduction as an entry of its config.json."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbones.reader import restored
from ..facts import import_module
from ..heads import num_classes
from ..loading.folder import CONFIG_FILE, ENTRY, LEARNED_FILE
from ..loading.weights import is_learned
from ..measure.image_processor import Processed
from ..measure.preparation import given_to


def write(model: Any, folder: Path, entry: str, state: dict[str, Tensor]) -> None:
    """Write the model, its image processor if it is known, and a file with the weights that the method learned."""
    from safetensors.torch import save_file

    import_module("transformers.utils.logging").disable_progress_bar()
    with restored(model):
        model.save_pretrained(folder, max_shard_size="1000TB")  # as one file
    with_classes(model).save_pretrained(folder)
    prepared = given_to(model)
    if prepared is not None and isinstance(prepared.transform, Processed):
        prepared.transform.processor.save_pretrained(folder)
    if learned := {key: value for key, value in state.items() if is_learned(key)}:
        save_file(learned, folder / LEARNED_FILE, metadata={"format": "pt"})
    path = folder / CONFIG_FILE
    content = json.loads(path.read_text(encoding="utf-8")) | {ENTRY: json.loads(entry)}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_classes(model: Any) -> Any:
    """A copy of the model's configuration with the number of classes of its head, which may have been replaced."""
    config = copy.deepcopy(model.config)
    if (classes := num_classes(model)) and classes != config.num_labels:
        config.num_labels = classes
    return config
