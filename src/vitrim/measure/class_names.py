"""The class names of a model, and the class that a folder or label names.

Names are compared without case, blanks, underscores, hyphens and leading zeros. A class may have several names,
separated by commas as in ImageNet; each of them matches. A WordNet id matches too, alone or before the name
(n01440764_tench).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from .pixels import ImageDataError

WNID = re.compile(r"n\d{8}")  # WordNet id: the name of an ImageNet class folder
DEFAULT_LABEL = re.compile(r"LABEL_\d+")  # the default name of a class in transformers


@dataclass(frozen=True)
class ClassNames:
    """A name for each class, and their source."""

    names: tuple[str, ...]
    source: str  # in words that follow "as": "the model's id2label has it". Part of the identity of a run
    certain: bool = True  # False: guessed from the number of classes
    wordnet_ids: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int | None:
        """Return the class with this name, or None. Raises ImageDataError if several classes have it."""
        wnid = WNID.match(name)
        rest = "" if wnid is None else name[wnid.end() :].strip(" _-.,:")
        for each in (name, wnid and wnid[0], rest):
            found = self._hits(each) if each else ()
            if len(found) > 1:
                raise ImageDataError(
                    f"{name!r} is the name of the classes {' and '.join(map(str, found))} as {self.source}: use class "
                    "numbers instead."
                )
            if found:
                return found[0]
        return None

    def conflict(self, names: Sequence[str]) -> int | None:
        """Return the first class that another list of names puts at another index, or None."""
        plain = [_plain(name) for name in names]
        times = Counter(plain)
        for index, name in enumerate(names):
            hits = self._hits(name) if times[plain[index]] == 1 else ()
            if len(hits) == 1 and hits[0] != index and plain[index] not in map(_plain, _parts(self.names[index])):
                return index
        return None

    def _hits(self, name: str) -> tuple[int, ...]:
        """Return all classes with this name, by the strictest comparison that finds any."""
        if name in self.wordnet_ids:
            return (self.wordnet_ids[name],)
        exact, whole, parts = self._tables
        return exact.get(name) or whole.get(_plain(name)) or parts.get(_plain(name)) or ()

    @cached_property
    def _tables(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        return (
            _table([name] for name in self.names),
            _table([_plain(name)] for name in self.names),
            _table(map(_plain, _parts(name)) for name in self.names),
        )


def class_names_of(model: Any, num_classes: int) -> ClassNames | None:
    """Return the class names of a model or its weights, or ImageNet's if the number of classes matches, or None."""
    config, cfg = getattr(model, "config", None), getattr(model, "pretrained_cfg", None) or {}
    sources = {
        "the model's id2label has it": _in_order(getattr(config, "id2label", None)),
        "torchvision's weights have it": getattr(model, "categories", None),
        "the model's label_names have it": _of_timm(cfg),
    }
    for source, names in sources.items():
        if names and len(names) == num_classes and not all(DEFAULT_LABEL.fullmatch(str(name)) for name in names):
            return with_wordnet_ids(ClassNames(tuple(map(str, names)), source))
    return imagenet_names(num_classes)


@lru_cache
def imagenet_names(num_classes: int) -> ClassNames | None:
    """Return names and WordNet ids of timm's label set of this size, or None."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)  # untyped
    wnids = {wnid: i for i, wnid in enumerate(info.label_names())}
    return ClassNames(tuple(info.label_descriptions()), f"{subset} has it", certain=False, wordnet_ids=wnids)


def with_wordnet_ids(names: ClassNames) -> ClassNames:
    """Add ImageNet's WordNet ids if the names are ImageNet classes, in any order."""
    known = imagenet_names(len(names))
    if known is None:
        return names
    hits = {wnid: names._hits(known.names[i]) or _first(names, known.names[i]) for wnid, i in known.wordnet_ids.items()}
    if sum(map(bool, hits.values())) < len(names) / 2:
        return names
    in_order = sum(i in hits[wnid] for wnid, i in known.wordnet_ids.items()) > len(names) / 2
    found = {}
    for wnid, i in known.wordnet_ids.items():
        if i in hits[wnid] or (in_order and not hits[wnid]):
            found[wnid] = i
        elif len(hits[wnid]) == 1:
            found[wnid] = hits[wnid][0]
    return replace(names, wordnet_ids=found)


def whole_number(text: str) -> int | None:
    """Read a text of digits, maybe with leading zeros, as a number. None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text.lstrip("0")) < 10 else None


def _first(names: ClassNames, described: str) -> tuple[int, ...]:
    """Return the classes with the first of several names that any class has."""
    return next((hits for part in _parts(described) if (hits := names._hits(part))), ())


def _in_order(id2label: Any) -> list[str] | None:
    if not isinstance(id2label, Mapping) or set(id2label) != set(range(len(id2label))):
        return None
    return [id2label[i] for i in range(len(id2label))]


def _of_timm(cfg: Mapping[str, Any]) -> list[str] | None:
    """Return timm's label_names, each followed by its description if there is one."""
    names, texts = cfg.get("label_names"), cfg.get("label_descriptions") or {}
    if isinstance(names, Mapping):
        names = _in_order({int(i): name for i, name in names.items()})
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    return [f"{name}, {texts[name]}" if isinstance(texts, Mapping) and name in texts else str(name) for name in names]


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split(",") if part.strip()]


def _plain(name: str) -> str:
    """Remove case, blanks, underscores, hyphens, and the leading zeros of a number."""
    plain = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold()) or name
    number = whole_number(plain)
    return plain if number is None else str(number)


def _table(names: Iterable[Iterable[str]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for index, each in enumerate(names):
        for name in dict.fromkeys(each):
            found[name] = (*found.get(name, ()), index)
    return found
