"""Match folders of images with classes: by the model's names, by number, or else in sorted order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .class_names import ClassNames, whole_number
from .pixels import ImageDataError

ADVICE = "name the folders by class numbers, or add a labels.csv (header file,label)"

Index = Mapping[str, int]


def class_index(
    folder: Path,
    classes: Sequence[str],
    images: Mapping[str, Sequence[Path]],
    num_classes: int,
    names: ClassNames | None,
) -> tuple[Index, tuple[str, ...] | None, str, bool]:
    """Return the index of each class folder, the class names, their source, and whether the order is assumed."""
    filled = [name for name in classes if images[name]]
    named = {} if names is None else {name: names.find(name) for name in filled}
    matched = {name: index for name, index in named.items() if index is not None}
    class_names = None if names is None else names.names
    if names is not None and matched:
        _check_matched(folder, filled, matched, names)
        return matched, class_names, f"names of folders, {names.source}", False
    if all(whole_number(name) is not None for name in filled):
        return _numbered(folder, filled, num_classes), class_names, "numbers of folders", False
    if names is not None and names.certain:
        raise ImageDataError(
            f"{folder}: none of the folders ({filled[0]}, ...) is a class of the model ({names.names[0]}, ..., as "
            f"{names.source}): {ADVICE}."
        )
    if len(classes) == num_classes:
        return {name: i for i, name in enumerate(classes)}, tuple(classes), "assumed: sorted order of folders", True
    raise ImageDataError(
        f"{folder} has {len(classes)} class folders ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}), "
        f"but the model has {num_classes} classes. Name the folders by class number, class name or WordNet id, or "
        "add a labels.csv (header file,label)."
    )


def _check_matched(folder: Path, filled: Sequence[str], matched: Index, names: ClassNames) -> None:
    """Raise ImageDataError unless each folder is a class of its own."""
    unknown = [name for name in filled if name not in matched]
    if unknown:
        kind = "classes" if names.certain else "ImageNet classes"
        others = f" (one of {len(unknown)} such folders)" if len(unknown) > 1 else ""
        raise ImageDataError(
            f"{folder}: {unknown[0]}{others} is not one of the {len(names)} {kind} of the model, but "
            f"{next(iter(matched))} is, as {names.source}: {ADVICE}."
        )
    _check_distinct(folder, matched)


def _numbered(folder: Path, filled: Sequence[str], num_classes: int) -> Index:
    index = {name: number for name in filled if (number := whole_number(name)) is not None}
    for name, number in index.items():
        if number >= num_classes:
            raise ImageDataError(
                f"{folder}: the folder {name} would be class {number}, but the model has classes 0 to "
                f"{num_classes - 1}. Number the folders from 0."
            )
    _check_distinct(folder, index)
    return index


def _check_distinct(folder: Path, index: Index) -> None:
    first: dict[int, str] = {}
    for name, number in index.items():
        if first.setdefault(number, name) != name:
            raise ImageDataError(f"{folder}: the folders {first[number]} and {name} are the same class {number}.")
