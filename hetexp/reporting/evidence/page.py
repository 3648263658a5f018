"""The page of evidence: every claim with its number, its picture and a reason, as the discussion of a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from hetexp.errors import ConfigError, HetexpError
from hetexp.files import atomic_write
from hetexp.reporting.evidence.choices import read_choices
from hetexp.reporting.evidence.decide import p_text, sources, summary, with_interval
from hetexp.reporting.evidence.ledger import Claim, Ledger
from hetexp.reporting.evidence.measurements import Measurements
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, MARKS, NOT_MEASURED, UNDECIDED, Decision
from hetexp.reporting.figures.choices import draw_choices
from hetexp.reporting.figures.curves import draw_perturbation, draw_sweep
from hetexp.reporting.figures.mechanism import draw_mechanism
from hetexp.reporting.figures.randomisation import draw_randomisation
from hetexp.reporting.report import data_uri
from hetexp.reporting.runs import Run, newest_run

DISCUSSION = Path(__file__).with_name("discussion.yaml")
TEMPLATES = Path(__file__).parents[1] / "templates"
CLASSES = {HOLDS: "holds", CONTRADICTED: "fails", UNDECIDED: "open", NOT_MEASURED: "none"}

FIGURES: dict[str, tuple[str, Callable[[Run], Figure]]] = {
    "threshold_sweep": ("AP over the threshold; a ring where two methods change places.", draw_sweep),
    "mechanism": (
        "AP over the threshold: the noise link, its values on shuffled tokens, other weights.",
        draw_mechanism,
    ),
    "sensitivity": (
        "One choice changed at a time: what each of the paper's differences in AP becomes.",
        lambda run: draw_choices(read_choices(run)),
    ),
    "sensitivity_vqa": (
        "One choice changed at a time: what each difference of the perturbation test becomes.",
        lambda run: draw_choices(read_choices(run)),
    ),
    "randomisation": ("Maps as weights become random, stage by stage from the output.", draw_randomisation),
    "figure6": ("Accuracy as tokens are removed.", draw_perturbation),
}


def build_page(
    ledger: Ledger, decisions: Mapping[str, Decision], runs: Mapping[str, Measurements | str], outputs: Path
) -> str:
    """The page as text; a picture whose run is not there is left out, and the page says what makes it.

    Raises:
        ConfigError: if the discussion names a claim or a picture that does not exist.
    """
    known = {claim.id for claim in ledger.claims} | set(ledger.orders)
    content: Any = OmegaConf.to_container(OmegaConf.load(DISCUSSION))
    entries: list[dict[str, Any]] = content["sections"]
    for kind, names, those in (
        ("claim", [c for e in entries for c in e["claims"]], known),
        ("figure", [f for e in entries for f in e["figures"]], set(FIGURES)),
    ):
        wrong = [name for name in names if name not in those]
        if wrong:
            raise ConfigError(
                f"{DISCUSSION} names {kind} {wrong[0]!r}, which does not exist: choose among {sorted(those)}"
            )
    named = {name for entry in entries for name in entry["claims"]}
    rest = [c.id for c in ledger.claims if c.id not in named and c.order not in named]
    if rest:
        entries.append({"title": "Further claims", "claims": rest, "figures": [], "text": ""})
    sections = [
        {
            "anchor": f"section-{number}",
            "title": entry["title"],
            "text": entry["text"],
            "claims": [row for name in entry["claims"] for row in _rows(name, ledger, decisions)],
            "figures": [_figure(name, outputs) for name in entry["figures"]],
        }
        for number, entry in enumerate(entries, start=1)
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("evidence.html.j2").render(
        css=Markup((TEMPLATES / "evidence.css").read_text(encoding="utf-8")),
        summary=summary(ledger.claims, decisions),
        sources=sources(runs),
        resamples=ledger.resampling.resamples,
        sections=sections,
    )


def _rows(name: str, ledger: Ledger, decisions: Mapping[str, Decision]) -> list[dict[str, str]]:
    """A claim as a line; of an order the neighbours in AP, and a line on all its pairs."""
    if name not in ledger.orders:
        return [_row(claim, decisions[claim.id]) for claim in ledger.claims if claim.id == name]
    pairs = ledger.of_order(name)
    rows = [_row(claim, decisions[claim.id]) for claim in pairs if claim.neighbours_in_ap]
    counts = summary(pairs, decisions)
    title = pairs[0].text.partition(",")[0]
    return [
        *rows,
        {"kind": "none", "mark": "∑", "verdict": "", "text": f"{title}, all pairs, all metrics", "number": counts},
    ]


def _row(claim: Claim, found: Decision) -> dict[str, str]:
    number = with_interval(found.estimate, found.low, found.high, sign=claim.against == 0)
    parts = [f"{number} {claim.unit}".strip()] if number else [found.why]
    if found.n is not None:
        parts.append(f"n = {found.n}")
    if p_text(found.p_holm):
        parts.append(f"p {'' if p_text(found.p_holm).startswith('<') else '= '}{p_text(found.p_holm)}")
    claimed = f" (claimed: {claim.relation} {claim.against:g})" if claim.against and number else ""
    return {
        "kind": CLASSES[found.verdict],
        "mark": MARKS[found.verdict],
        "verdict": found.verdict,
        "text": claim.text,
        "number": "; ".join(parts) + claimed,
    }


def _figure(name: str, outputs: Path) -> dict[str, str]:
    caption, draw = FIGURES[name]
    try:
        run = newest_run(outputs, name)
        return {"image": data_uri(draw(run), vector=True), "caption": caption, "missing": ""}
    except HetexpError as error:
        return {"image": "", "caption": caption, "missing": str(error)}


def write_page(
    ledger: Ledger,
    decisions: Mapping[str, Decision],
    runs: Mapping[str, Measurements | str],
    outputs: Path,
    path: Path,
) -> Path:
    """Write the page whole or not at all."""
    return atomic_write(path, build_page(ledger, decisions, runs, outputs))
