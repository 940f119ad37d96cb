"""Load open_clip's vision towers by name: its own, and those that are timm models. Text towers are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..facts import import_module
from ..measure.preparation import prepared_by
from ..quiet import quiet
from ..text import first_line
from .folder import Config
from .network import check_answer
from .ranges import check_multiple
from .weights import Adapt, fit, read_checkpoint

EXAMPLE, ADVICE, RESAMPLE = "ViT-B-32/laion2b_s34b_b79k", "pass --checkpoint FILE", None
TOWER = "visual."  # prefix of the vision tower's weights


def build(name: str, img_size: int | None) -> nn.Module:
    """Build the tower with random weights."""
    return _tower(_create(name.partition("/")[0], None, img_size))


def load(name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """Load the tower with the checkpoint's weights, or those of the tag after the slash."""
    architecture, _, tag = name.partition("/")
    if checkpoint is not None:
        state = read_checkpoint(checkpoint)
        whole = _create(architecture, None, img_size)
        tower = _tower(whole)
        fit(tower, state, f"open_clip:{architecture}", checkpoint, adapt=_adapting(whole, img_size is not None))
        return tower
    if not tag:
        raise ValueError(f"open_clip:{name} names no weights: write open_clip:{name}/TAG, or pass --checkpoint FILE.")
    tags = import_module("open_clip").pretrained.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ValueError(f"open_clip has no weights {tag!r} for {architecture}; there are {', '.join(tags) or 'none'}.")
    check_answer()
    return _tower(_create(architecture, tag, img_size))


def _create(architecture: str, tag: str | None, img_size: int | None) -> Any:
    """Create the whole model, with the weights of a tag, or random ones."""
    library: Any = import_module("open_clip")
    if architecture not in library.list_models():
        raise ValueError(f"open_clip has no model {architecture!r}; open_clip.list_models() lists them.")
    size = {} if img_size is None else {"force_image_size": img_size}
    try:
        with quiet():  # it warns about random weights, which are wanted here
            model = library.create_model(architecture, pretrained=tag, pretrained_text=False, **size)
    except (TypeError, AssertionError, RuntimeError) as error:
        at = "" if img_size is None else f" for images of {img_size} pixels"
        raise ValueError(f"open_clip:{architecture} cannot be built{at}: {first_line(error)}.") from error
    own = library.get_model_config(architecture)["vision_cfg"].get("image_size")
    if img_size not in (None, own) and (patch := _patch_size(model.visual)) is not None:
        check_multiple(f"open_clip:{architecture}", img_size, patch)
    return model


def _patch_size(tower: Any) -> int | None:
    embed = getattr(getattr(tower, "trunk", None), "patch_embed", None)  # of a timm model
    size = getattr(tower, "patch_size", getattr(embed, "patch_size", None))
    return size if size is None or isinstance(size, int) else int(size[0])


def candidates(tower: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each registered name whose configuration resembles the tower, with the arguments to build it."""
    library: Any = import_module("open_clip")
    if hasattr(tower, "visual"):
        raise ValueError(
            "only the vision tower of an open_clip model can be saved: save_pretrained(model.visual, ...)."
        )
    trunk = getattr(tower, "trunk", None)  # if the tower is a timm model
    name = None if trunk is None else trunk.pretrained_cfg["architecture"]
    wanted = None if name else (tower.conv1.out_channels, len(tower.transformer.resblocks), tower.output_dim)
    for each in library.list_models():
        config = library.get_model_config(each)
        vision = config["vision_cfg"] | {"image_size": tower.image_size, "timm_model_pretrained": False}
        found = str(vision.get("timm_model_name") or "").partition(".")[0]
        sizes = (vision.get("width", 768), vision.get("layers", 12), config["embed_dim"])
        if found == name if name else not found and sizes == wanted:
            quick = bool(config.get("quick_gelu"))
            arguments = {"embed_dim": config["embed_dim"], "vision_cfg": vision, "quick_gelu": quick}
            yield each, arguments, dict(getattr(tower, "preprocess_cfg", {}))


def rebuild(config: Config, folder: Path, img_size: int | None) -> nn.Module:
    """Build the tower that a folder describes, with random weights. Nothing is downloaded."""
    import timm

    if img_size is not None:
        raise ValueError(f"the image size of the tower in {folder} cannot be changed: build a new tower instead.")
    vision = dict(config.arguments["vision_cfg"])
    name = vision.get("timm_model_name")
    if vision.get("timm_model_pretrained") or not (name is None or (":" not in name and timm.is_model(name))):
        raise ValueError(f"{folder} names a trunk {name!r} to download; a saved tower must hold its own weights.")
    text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}  # a tower that is thrown away
    tower = import_module("open_clip").CLIP(text_cfg=text, **{**config.arguments, "vision_cfg": vision}).visual
    tower.num_classes = 0
    if config.data:
        tower.preprocess_cfg = dict(config.data)
        _prepare(tower)
    return tower


def _adapting(whole: Any, resample: bool) -> Adapt:
    """Take the tower's weights from those of a whole model, as open_clip saves it, or of the tower alone."""

    def adapt(_: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = import_module("open_clip.convert").convert_state_dict(whole, state)
        if not any(key.startswith(TOWER) for key in state):
            state = {f"{TOWER}{key}": value for key, value in state.items()}
        if resample:
            import_module("open_clip.model").resize_pos_embed(state, whole)
        return {key.removeprefix(TOWER): value for key, value in state.items() if key.startswith(TOWER)}

    return adapt


def _tower(whole: Any) -> nn.Module:
    tower = whole.visual
    _prepare(tower)
    tower.num_classes = 0
    return tower


def _prepare(tower: Any) -> None:
    """Set the tower's image preparation to the transform of its configuration."""
    transforms: Any = import_module("open_clip.transform")
    cfg = transforms.PreprocessCfg(**tower.preprocess_cfg)
    transform = transforms.image_transform_v2(cfg, is_train=False)
    tower.image_preparation = prepared_by("open_clip", transform, 3, tower.preprocess_cfg)
