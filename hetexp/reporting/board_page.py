"""What the report shows of the leaderboard: plain cells, which the page sorts and filters."""

from __future__ import annotations

import math
from typing import Any

from hetexp.reporting.board import COLUMNS, Board
from hetexp.reporting.leaderboard import refusals
from hetexp.reporting.names import method_name

PRICES = {
    "forward": "forward passes",
    "backward": "backward passes",
    "seconds_ratio": "time ×",
    "memory_ratio": "memory ×",
}


def page_context(board: Board, image: str) -> dict[str, Any]:
    """A row per model, part of its items and method; `image` is the figure as a data URI."""
    known = {column.key for model in board.about for column in board.columns(model)}
    columns = [column for column in COLUMNS if column.key in known]
    rows = []
    for model, items in board.parts():
        numbers = board.of(model, items)
        for method in numbers.index:
            cost = board.cost(model, str(method))
            price = [None if cost is None else cost[key] for key in PRICES]
            values = [*(numbers.loc[method].get(column.key) for column in columns), *price]
            cells = [None if value is None or math.isnan(value) else round(float(value), 2) for value in values]
            rows.append({"model": model, "part": items, "method": method_name(str(method)), "cells": cells})
    headings = [f"{column.heading} {'↑' if column.more else '↓'}" for column in columns]
    return {
        "image": image,
        "columns": [*headings, *PRICES.values()],
        "models": list(board.about),
        "rows": rows,
        "refusals": refusals(board),
    }
