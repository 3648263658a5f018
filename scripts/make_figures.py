"""Draw the paper's figures from results on disk, without a model: python scripts/make_figures.py 2 3 4 6 sweep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from hetexp.errors import HetexpError
from hetexp.reporting.figures import curves, detections, questions
from hetexp.reporting.figures.style import save
from hetexp.reporting.runs import newest_run, read_run
from hetexp.reporting.samples import read_samples

FIGURES: dict[str, Callable[[Path, Path], list[Path]]] = {
    "2": lambda out, to: save(detections.draw_relevance(read_samples(out, "detr").samples), to / "figure2"),
    "3": lambda out, to: save(detections.draw_masks(read_samples(out, "detr").samples, 1.0), to / "figure3"),
    "4": lambda out, to: save(detections.draw_masks(read_samples(out, "detr").samples, 0.3), to / "figure4"),
    "5": lambda out, to: save(questions.draw_methods(read_samples(out, "lxmert").part("questions")), to / "figure5"),
    "6": lambda out, to: curves.write_perturbation(newest_run(out, "figure6"), to),
    "7": lambda out, to: save(questions.draw_semantics(read_samples(out, "lxmert").part("questions")), to / "figure7"),
    "8": lambda out, to: save(questions.draw_logic(read_samples(out, "lxmert").part("logic")), to / "figure8"),
    "sweep": lambda out, to: curves.write_sweep(newest_run(out, "threshold_sweep"), to),
}


def main(arguments: list[str] | None = None) -> int:
    """Write outputs/figures/figure2.png, .pdf and so on; 1 if something they need is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", nargs="+", choices=list(FIGURES), help="which figures to draw")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (default: outputs)")
    parser.add_argument("--results", type=Path, help="results.csv or run folder for figure 6 or sweep")
    parser.add_argument("--to", type=Path, help="folder to write to (default: <outputs>/figures)")
    options = parser.parse_args(arguments)
    folder = options.to or options.outputs / "figures"
    explicit = {"6": curves.write_perturbation, "sweep": curves.write_sweep}
    try:
        for name in options.figures:
            if options.results and name in explicit:
                paths = explicit[name](read_run(options.results), folder)
            else:
                paths = FIGURES[name](options.outputs, folder)
            print(f"figure {name}:", ", ".join(str(p) for p in paths))
    except HetexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
