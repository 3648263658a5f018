"""Where the labels of a detector and the categories of a data set meet: by name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO

from hetexp.errors import ConfigError, DataError

log = logging.getLogger(__name__)


def category_ids(id2label: Mapping[int, str], coco: COCO, renamed: Any = None) -> dict[int, int | None]:
    """COCO category id of each model label, matched by name; None for a label that is no category of the data.

    DETR's label list has gaps named "N/A" and placeholders, and a user's own data may have fewer categories than the
    model. A category without a label can never be detected: a warning names these, with the labels nearest to them.

    Args:
        id2label: the model's labels.
        coco: annotations.
        renamed: name of a category in the annotations -> the model's label for it (`data.categories`).

    Raises:
        ConfigError: if `renamed` holds a name that the data or the model does not have.
        DataError: if no label at all is a category, or two labels claim one category, or the reverse.
    """
    labels = sorted({str(name) for name in id2label.values()})
    names = {category["id"]: str(category["name"]) for category in coco.cats.values()}
    renamed = _renamed(renamed, list(names.values()), labels)
    by_name: dict[str, int] = {}
    for number, name in names.items():
        meant = renamed.get(name, name)
        if meant in by_name:
            raise DataError(
                f"categories {names[by_name[meant]]!r} and {name!r} both stand for {meant!r}: merge them in the "
                "annotation file, or change data.categories"
            )
        by_name[meant] = number
    mapping = {int(label): by_name.get(name) for label, name in id2label.items()}
    claimed = [category for category in mapping.values() if category is not None]
    without = [name for name in by_name if name not in labels]
    if not claimed:
        raise DataError(
            f"none of the model's labels ({_some(id2label.values())}) is a category of the data ({_some(by_name)})"
            f"{_nearest(without, labels)}; labels and categories are matched by name: use a model trained on these "
            "categories, or say which is which with data.categories={category: label}"
        )
    twice = sorted({names[category] for category in claimed if claimed.count(category) > 1})
    if twice:
        raise DataError(f"several model labels are named {_some(twice)}: each category needs exactly one label")
    if without:
        log.warning(
            "%d of the data's %d categories are no label of the model and count as never detected: %s%s. Labels of the "
            "model without a category: %s. Match them with data.categories={category: label}",
            len(without),
            len(names),
            _some(without, 12),
            _nearest(without, labels),
            _some([label for label in labels if label not in by_name], 12) or "none",
        )
    return mapping


def category_of(label: int, mapping: Mapping[int, int | None], id2label: Mapping[int, str]) -> int | None:
    """Category id of a predicted label, None where it is no category: such a detection is neither right nor wrong here.

    Raises:
        DataError: for a label that the model does not have.
    """
    if label not in mapping:
        raise DataError(f"label {label} is none of the model's {len(id2label)} labels: the stored detections are stale")
    return mapping[label]


def _renamed(given: Any, categories: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """`data.categories`, checked."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"data.categories={given} must have the form {{category: label, ...}}")
    renamed = {str(category): str(label) for category, label in given.items()}
    for names, known, what in (
        (renamed, categories, "category of the data"),
        (renamed.values(), labels, "model label"),
    ):
        for name in names:
            if name not in known:
                near = _nearest_of(name, known)
                hint = f"did you mean {near!r}?" if near else f"known are {_some(known)}"
                raise ConfigError(f"data.categories={{category: label}}: {name!r} is no {what}: {hint}")
    return renamed


def _nearest_of(name: str, known: Collection[str]) -> str | None:
    folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def _nearest(names: Iterable[str], known: Collection[str]) -> str:
    """The nearest of the known to each name that has one, as the end of a message."""
    pairs = [f"{name} -> {near}" for name in names if (near := _nearest_of(name, known))]
    return f" (nearest: {_some(pairs, 12)})" if pairs else ""


def _some(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
