"""The report: one HTML file with every table, figure, claim and its provenance, and a gallery to play with."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from hetexp.errors import DataError, HetexpError
from hetexp.files import atomic_write, file_hash
from hetexp.paths import PACKAGE
from hetexp.reporting import gallery, perturbation, tables
from hetexp.reporting.board import read_board
from hetexp.reporting.board_page import page_context
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.evidence.decide import with_interval
from hetexp.reporting.evidence.verdicts import CONTRADICTED, HOLDS, NOT_MEASURED, UNDECIDED
from hetexp.reporting.figures import curves
from hetexp.reporting.figures.leaderboard import draw_leaderboard
from hetexp.reporting.figures.of_samples import SAMPLE_FIGURES
from hetexp.reporting.figures.style import styled
from hetexp.reporting.findings import findings
from hetexp.reporting.names import PAPER_METHODS, method_name
from hetexp.reporting.published import METRICS, SOURCE
from hetexp.reporting.runs import Run, newest_run
from hetexp.reporting.samples import SampleSet, read_samples

TEMPLATES = Path(__file__).with_name("templates")
Part = TypeVar("Part")

SCRIPTS = ("fold.js", "paint.js", "gallery.js", "leaderboard.js")  # in this order: the gallery uses the two before it
EVIDENCE = "evidence.html"  # the page of `task=evidence`
GALLERY_KINDS = ("detection", "vqa")
RUNS = {"table1": "Table 1", "table2": "Table 2", "threshold_sweep": "Threshold sweep", "figure6": "Figure 6"}


class Collector:
    """Gathers parts; one that is missing is noted with its message instead of ending the report."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def take(self, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except HetexpError as error:
            if str(error) not in self.missing:
                self.missing.append(str(error))
            return None


def data_uri(figure: Figure, vector: bool = False) -> str:
    """A figure as a data URI, SVG (text as outlines, so that no font is needed) or WebP; closes the figure."""
    buffer = io.BytesIO()
    kind = "svg" if vector else "png"
    with styled(), plt.rc_context({"svg.fonttype": "path"}):
        figure.savefig(
            buffer, format=kind, bbox_inches="tight", pad_inches=0.02, metadata={"Date": None} if vector else {}
        )
    plt.close(figure)
    if vector:
        return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    packed = io.BytesIO()
    Image.open(buffer).convert("RGB").save(packed, "WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def table_context(table: tables.ComparedTable) -> dict[str, Any]:
    """What the page shows of one table."""
    rows = []
    for metric in METRICS:
        values = [table.measured.get((metric, m)) for m in table.methods]
        best = max((v for v in values if v is not None), default=None)
        cells = [
            {
                "here": tables.one_decimal(v),
                "interval": ""
                if (ends := table.intervals.get((metric, m))) is None
                else f"{ends[0]:.1f} to {ends[1]:.1f}",
                "paper": tables.one_decimal(table.published.value(metric, m)) if m in PAPER_METHODS else None,
                "best": v is not None and v == best,
            }
            for m, v in zip(table.methods, values, strict=True)
        ]
        rows.append({"metric": metric, "cells": cells})
    claims: dict[str, list[dict[str, str]]] = {}
    kinds = {HOLDS: ("holds", "✓"), CONTRADICTED: ("fails", "✗"), UNDECIDED: ("", "?"), NOT_MEASURED: ("", "–")}
    for claim, found in table.claims:
        if claim.neighbours:
            kind, mark = kinds[found.verdict]
            difference = with_interval(found.estimate, found.low, found.high, sign=True)
            cell = {"kind": kind, "mark": mark, "verdict": found.verdict, "difference": difference}
            claims.setdefault(claim.pair, []).append(cell)
    counts = {verdict: len(pairs) for verdict, pairs in tables.verdicts_of(table, "AP").items() if pairs}
    of_ap = [f"{n} {'hold' if (verdict, n > 1) == (HOLDS, True) else verdict}" for verdict, n in counts.items()]
    return {
        "anchor": table.published.experiment,
        "number": table.published.number,
        "scale": f"{table.published.scale:.1f}",
        "caption": table.caption.split(": ", 1)[1],
        "note": table.note,
        "order": table.order.text,
        "margin_note": tables.margin_note(table),
        "said": f"orders of two methods by AP: {', '.join(of_ap)}",
        "methods": [method_name(m) for m in table.methods],
        "metrics": METRICS,
        "rows": rows,
        "claims": [{"text": text, "cells": cells} for text, cells in claims.items()],
        "summaries": list(tables.summaries(table)),
    }


def sweep_context(run: Run) -> dict[str, Any]:
    """What the page shows of the threshold sweep."""
    table = curves.sweep_frame(run)
    first, last = table.index[0], table.index[-1]
    lead = {s: method_name(table.loc[s].idxmax()) for s in (first, last)}
    return {
        "anchor": "sweep",
        "image": data_uri(curves.draw_sweep(run), vector=True),
        "alt": f"AP against the threshold: {lead[first]} leads at {first:g} times Otsu's, {lead[last]} at {last:g}.",
        "caption": f"Highest AP at {first:g} × Otsu: {lead[first]}; at {last:g} × Otsu: {lead[last]}.",
        "crossings": [
            f"At {at:.2f} × Otsu {method_name(ahead)} overtakes {method_name(behind)}."
            for at, behind, ahead in curves.crossings(table)
        ],
        "methods": [method_name(m) for m in table.columns],
        "rows": [
            {"scale": f"{scale:g}", "cells": [tables.one_decimal(v) for v in row]}
            for scale, row in zip(table.index, table.to_numpy(dtype=float).tolist(), strict=True)
        ],
    }


def perturbation_context(run: Run) -> dict[str, Any]:
    """What the page shows of the perturbation test."""
    table = perturbation.auc_table(run)
    return {
        "anchor": "figure6",
        "image": data_uri(curves.draw_perturbation(run), vector=True),
        "alt": "Four panels of accuracy against the removed share of tokens, a curve per method; areas: see below.",
        "caption": perturbation.caption(run),
        "columns": list(table.columns),
        "rows": [
            {"method": name, "cells": list(row)}
            for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
        ],
        "lines": perturbation.control_sentences(run),
    }


def run_provenance(title: str, run: Run, outputs: Path) -> dict[str, Any]:
    """Everything needed to make a run's numbers again."""
    first, facts = run.frame.iloc[0], run.facts or _job_facts(run)
    found: list[tuple[str, Any]] = [
        ("command", run.command),
        ("folder", _below(run.folder, outputs)),
        ("model", f"{first['model']}, checkpoint {first['checkpoint']}"),
        ("data", f"{first['data']}, {int(run.frame['n'].max())} items"),
        ("results.csv", f"SHA-256 {file_hash(run.folder / 'results.csv')[:16]}"),
    ]
    if facts.get("dataset"):
        found.append(("data set", f"SHA-256 {str(facts['dataset'])[:16]}"))
    if facts.get("config_hash"):
        found.append(("configuration", f"SHA-256 {facts['config_hash'][:16]}"))
    if facts.get("seconds") is not None:
        found.append(("run time", f"{facts['seconds']:.0f} s (relevance already stored is not computed again)"))
    if facts.get("machine"):
        found.append(("machine", ", ".join(f"{k} {v}" for k, v in facts["machine"].items())))
    if facts.get("versions"):
        found.append(("versions", ", ".join(f"{k} {v}" for k, v in facts["versions"].items())))
    config = OmegaConf.to_yaml(run.config) if run.config else ""
    config = config.replace(f"{PACKAGE.parent}/", "")  # where it is installed is nobody's business
    return {"title": title, "facts": found, "config": config}


def _job_facts(run: Run) -> dict[str, Any]:
    """Facts of a sweep: those of its jobs, times added up."""
    jobs = [Run(p, run.frame).facts for p in sorted(run.folder.iterdir()) if p.name.isdigit()]
    seconds = [j["seconds"] for j in jobs if "seconds" in j]
    return {**(jobs[0] if jobs else {}), "seconds": sum(seconds) if seconds else None, "config_hash": None}


def _below(folder: Path, outputs: Path) -> str:
    return f"outputs/{folder.relative_to(outputs)}" if folder.is_relative_to(outputs) else folder.name


def sample_provenance(found: SampleSet) -> dict[str, Any]:
    """Where a set of samples comes from."""
    about = found.about
    items = dict.fromkeys(str(s.info["item"]) for s in [*found.samples, *found.further])
    facts = [
        ("command", f"python run.py task=samples model={about['model']}"),
        ("checkpoint", about["checkpoint"]),
        ("data", f"{about['data']}, items {', '.join(items)}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())),
    ]
    return {"title": f"Pictures and gallery, {about['model']}", "facts": facts, "config": ""}


def sample_figures(found: dict[str, SampleSet], collector: Collector) -> list[dict[str, str]]:
    """The figures of the samples at hand."""
    out = []
    for name, figure in SAMPLE_FIGURES.items():
        if figure.kind not in found:
            continue
        samples = found[figure.kind]
        image = collector.take(lambda f=figure, s=samples: data_uri(f.draw(s)))  # type: ignore[misc]
        if image is not None:
            caption = f"{figure.caption} {figure.without(samples)}".strip()
            title = name.replace("figure", "Figure ") + "."
            out.append({"anchor": name, "image": image, "title": title, "caption": caption, "alt": caption})
    return out


def build(outputs: Path, partial: bool = False, beside: Path | None = None) -> str:
    """The page as text.

    Args:
        partial: leave out what is missing and say so on the page.
        beside: the folder where the page will lie; a page of evidence there is linked.

    Raises:
        DataError: if something is missing (with `partial`: if everything is); it lists the commands that make it.
    """
    collector = Collector()
    runs = {}
    for experiment in RUNS:
        run = collector.take(lambda e=experiment: newest_run(outputs, e))  # type: ignore[misc]
        if run is not None:
            runs[experiment] = run
    found = {}
    for kind in GALLERY_KINDS:
        samples = collector.take(lambda k=kind: read_samples(outputs, k))  # type: ignore[misc]
        if samples is not None:
            found[kind] = samples
    numbers = [n for n in (1, 2) if f"table{n}" in runs]
    taken = [collector.take(lambda n=n: tables.compare(runs[f"table{n}"], n)) for n in numbers]  # type: ignore[misc]
    compared = [table for table in taken if table is not None]
    shown_tables = [table_context(t) for t in compared]
    sweep = collector.take(lambda: sweep_context(runs["threshold_sweep"])) if "threshold_sweep" in runs else None
    figure6 = collector.take(lambda: perturbation_context(runs["figure6"])) if "figure6" in runs else None
    board = None
    with contextlib.suppress(MissingInput):  # it takes the longest, so the page does without
        found_board = read_board(outputs)
        board = page_context(found_board, data_uri(draw_leaderboard(found_board), vector=True))
    figures = sample_figures(found, collector)
    if collector.missing and not (partial and (runs or found)):
        raise DataError("the report lacks:\n  " + "\n  ".join(collector.missing))
    shown = gallery.payload(found)
    sections = [("gallery", "Gallery")] if found else []
    sections += [(t["anchor"], f"Table {t['number']}") for t in shown_tables]
    sections += [("sweep", "Threshold")] if sweep else []
    sections += [("figure6", "Perturbation")] if figure6 else []
    sections += [("leaderboard", "Leaderboard")] if board else []
    sections += [("figures", "Figures")] if figures else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        js=Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        source=SOURCE,
        setting=_setting(runs, found),
        findings=findings(compared, runs["figure6"] if figure6 else None),
        hero=sweep or figure6,
        sections=[*sections, ("provenance", "Provenance")],
        evidence=EVIDENCE if beside is not None and (beside / EVIDENCE).is_file() else None,
        missing=collector.missing,
        tables=shown_tables,
        sweep=sweep,
        perturbation=figure6,
        leaderboard=board,
        figures=figures,
        gallery=shown,
        accepted=gallery.ACCEPTED,
        models={kind: samples.about["model"] for kind, samples in found.items()},
        gallery_json=Markup(gallery.as_json(shown)),
        provenance=[
            *(run_provenance(RUNS[e], r, outputs) for e, r in runs.items()),
            *(sample_provenance(s) for s in found.values()),
        ],
    )


def _setting(runs: dict[str, Run], found: dict[str, SampleSet]) -> str:
    """Checkpoints and data in one line."""
    pairs = [(r.frame.iloc[0]["checkpoint"], r.frame.iloc[0]["data"]) for r in runs.values()]
    pairs += [(s.about["checkpoint"], s.about["data"]) for s in found.values()]
    return "; ".join(f"{checkpoint} on {data}" for checkpoint, data in dict.fromkeys(pairs))


def write_report(outputs: Path, path: Path | None = None, partial: bool = False) -> Path:
    """Write the page whole or not at all; by default as `<outputs>/report/index.html`.

    Raises:
        DataError: as `build` does, or if the disk refuses.
    """
    path = path or outputs / "report" / "index.html"
    return atomic_write(path, build(outputs, partial, path.parent))
