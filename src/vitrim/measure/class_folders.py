"""Which class each folder of images is: by the model's names, by number, or, where nothing says it, in sorted order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .class_names import ClassNames, whole_number
from .pixels import ImageDataError

ADVICE = "name the folders by the numbers of the classes, or pass labels.csv (header file,label)"

Index = Mapping[str, int]


def class_index(
    folder: Path,
    classes: Sequence[str],
    images: Mapping[str, Sequence[Path]],
    num_classes: int,
    names: ClassNames | None,
) -> tuple[Index, tuple[str, ...] | None, str, bool]:
    """Index of each class folder, the names of all classes, where they come from, and whether that is assumed."""
    filled = [name for name in classes if images[name]]
    named = {} if names is None else {name: names.find(name) for name in filled}
    matched = {name: index for name, index in named.items() if index is not None}
    shown = None if names is None else names.names
    if names is not None and matched:
        _check_matched(folder, filled, matched, names)
        return matched, shown, f"names of folders, {names.source}", False
    if all(whole_number(name) is not None for name in filled):
        return _numbered(folder, filled, num_classes), shown, "numbers of folders", False
    if names is not None and names.certain:
        raise ImageDataError(
            f"{folder}: the folder {filled[0]} is none of the model's classes ({names.names[0]}, ...), and neither is "
            f"any other: {names.source}. {ADVICE.capitalize()}."
        )
    if len(classes) == num_classes:
        return {name: i for i, name in enumerate(classes)}, tuple(classes), "assumed: sorted order of folders", True
    raise ImageDataError(
        f"{folder} has {len(classes)} class folders ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}), "
        f"and the model has {num_classes} classes: wanted as many folders, or folders named by the numbers of their "
        "classes, by the model's own names or by ImageNet's WordNet ids, or labels.csv (header file,label)."
    )


def _check_matched(folder: Path, filled: Sequence[str], matched: Index, names: ClassNames) -> None:
    """ImageDataError unless each folder is a class, and each class one folder."""
    unknown = [name for name in filled if name not in matched]
    if unknown:
        kind = "classes" if names.certain else "ImageNet classes"
        others = f" ({len(unknown)} folders like it)" if len(unknown) > 1 else ""
        raise ImageDataError(
            f"{folder}: {unknown[0]} is none of the {len(names)} {kind} of the model{others}, and "
            f"{next(iter(matched))} is, as {names.source}: {ADVICE}."
        )
    _check_distinct(folder, matched)


def _numbered(folder: Path, filled: Sequence[str], num_classes: int) -> Index:
    index = {name: number for name in filled if (number := whole_number(name)) is not None}
    for name, number in index.items():
        if number >= num_classes:
            raise ImageDataError(
                f"{folder}: the folder {name} would be class {number}, and the model has the classes 0 to "
                f"{num_classes - 1}: count the folders from 0."
            )
    _check_distinct(folder, index)
    return index


def _check_distinct(folder: Path, index: Index) -> None:
    first: dict[int, str] = {}
    for name, number in index.items():
        if first.setdefault(number, name) != name:
            raise ImageDataError(f"{folder}: the folders {first[number]} and {name} are both class {number}.")
