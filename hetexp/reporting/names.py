"""What methods and panels are called in print, and in which order they stand.

Everything about a method comes from its record. Results may also name a variant, "ours_abs(noise_link=row)", or a
method that this process has not registered: both get a label and a place too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hetexp.attribution.registry import METHODS, VARIANT, MethodRecord
from hetexp.models.registry import ARCHITECTURES

# The five methods of the paper's tables and figures, in its order.
PAPER_METHODS = ("gae", "odam", "ours_abs", "ours_pos", "ours_noised")

OTSU = "otsu"  # the strategy that tables and figures say their thresholds are multiples of

PANEL_NAMES = {
    "image_negative": "Negative, image",
    "image_positive": "Positive, image",
    "text_negative": "Negative, text",
    "text_positive": "Positive, text",
}

# Controls without attribution: label by the name in results.csv.
CONTROLS = {
    "centre_prior": "Centre prior (control)",
    "edges": "Edges (control)",
    "predicted_box": "Predicted box (control)",
    "oracle": "Oracle (control)",
}


def _parsed(method: str) -> tuple[MethodRecord | None, str]:
    """Record behind a method's name, if it is registered, and what a variant changes ("" for none)."""
    variant = VARIANT.fullmatch(method)
    if method in METHODS or variant is None:
        return METHODS.get(method), ""
    return METHODS.get(variant["base"]), re.sub(r",(?! )", ", ", variant["changes"])


def record_of(method: str) -> MethodRecord | None:
    """The record behind a method's name or that of a variant; None for a method that is not registered here."""
    return _parsed(method)[0]


def method_name(method: str) -> str:
    """Printed name: the record's label, with what a variant changes; a method that is not registered keeps its key."""
    record, changes = _parsed(method)
    if record is None:
        return CONTROLS.get(method, method)
    return f"{record.label}, {changes}" if changes else record.label


def model_name(model: str) -> str:
    """Printed name of an architecture; one that is not registered here keeps its key."""
    return ARCHITECTURES[model].label if model in ARCHITECTURES else model


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of print: registered ones, variants, methods not registered here, controls last."""
    places = {name: place for place, name in enumerate(METHODS)}

    def place(method: str) -> tuple[bool, bool, int, int, str]:
        record = record_of(method)
        base = len(places) if record is None else places[record.name]
        control = method in CONTROLS or (record is not None and record.control)
        among = list(CONTROLS).index(method) if method in CONTROLS else -1
        return control, method not in places, base, among, method

    return sorted(set(methods), key=place)


def first_control(methods: Sequence[str]) -> set[int]:
    """Place of the first control behind methods in the order of print; empty without both."""
    places = [place for place, method in enumerate(methods) if is_control(method)]
    return {places[0]} if places and places[0] else set()


def is_signed(method: str) -> bool:
    """Whether a method's record says that its relevance can be negative; False where there is no record."""
    record = record_of(method)
    return record is not None and record.signed


def is_control(method: str) -> bool:
    """Whether a name is that of a control."""
    record = record_of(method)
    return method in CONTROLS or (record is not None and record.control)
