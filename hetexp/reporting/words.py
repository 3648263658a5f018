"""Relevance of text as a page of its own: every token of every source shaded, with its number under the pointer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from matplotlib.colors import to_hex

from hetexp.files import atomic_write
from hetexp.reporting.figures.maps import diverges, readable
from hetexp.reporting.figures.sources import NOTE
from hetexp.reporting.figures.text import shades, without_mark
from hetexp.reporting.names import method_name
from hetexp.reporting.samples import StoredExplanation

TEMPLATES = Path(__file__).with_name("templates")


def write_words(explanation: StoredExplanation, path: Path) -> Path:
    """Write an explanation's tokens as an HTML page that needs no network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    provenance = explanation.info["provenance"]
    page = environment.get_template("words.html.j2").render(
        title=f"Relevance of tokens, {provenance['model']}",
        note=NOTE.replace("\n", " "),
        methods=[
            {"name": method_name(method), "rows": [_row(explanation, method, row) for row in range(_rows(explanation))]}
            for method in explanation.methods
        ],
    )
    return atomic_write(path, page)


def _rows(explanation: StoredExplanation) -> int:
    return len(explanation.info["explained"])


def _row(explanation: StoredExplanation, method: str, row: int) -> dict[str, Any]:
    info = explanation.info
    sources = []
    for source, tokens in info["token_texts"].items():
        if f"{method}/{source}" not in explanation.relevance:
            continue
        relevance, left_out = explanation.need(f"{method}/{source}"), set(info["without_relevance"][source][row])
        colours = shades(relevance[row], left_out, diverges(method, relevance))
        sources.append(
            {
                "name": source,
                "tokens": [
                    {
                        "text": without_mark(token),
                        "back": to_hex(colour),
                        "fore": readable(colour),
                        "value": "no relevance" if i in left_out else f"{relevance[row, i]:.4g}",
                    }
                    for i, (token, colour) in enumerate(zip(tokens, colours, strict=True))
                ],
            }
        )
    return {"name": without_mark(info["explained"][row]), "target": info["targets"][row], "sources": sources}
