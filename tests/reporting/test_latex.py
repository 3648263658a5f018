"""LaTeX tables: rows fit their columns, signs are LaTeX, what is best is bold, and a page holds them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from latex_checks import check, check_signs, width
from pylatexenc.latexwalker import LatexWalkerParseError  # type: ignore[import-untyped]
from report_helpers import measure_rows, perturbation_rows, table_rows, write_items, write_run

from hetexp.reporting import ground_truth, latex, perturbation, tables
from hetexp.reporting.runs import read_run

REFERENCE = sorted((Path(__file__).parents[2] / "outputs" / "reference" / "tables").glob("*.tex"))
FRAME = pd.DataFrame(
    {"AUC & more ↑": ["92.0 [91.1, 92.8]", "−3.0 [−4.0, −2.0] ×"], "n_items": ["10", "< 2 | ✓ ✗"]},
    index=["GAE", "A method whose name is far too long for one line (control)"],
)


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.name)
def test_reference_tables_are_latex(path: Path) -> None:
    assert check(path.read_text(encoding="utf-8")) > 3


def test_the_check_finds_faults() -> None:
    good = latex.table(FRAME, "caption", "label")
    assert check(good) == 1 + 2 + 2  # headings, GAE with its interval, a name in two lines
    with pytest.raises(AssertionError, match="GAE"):
        check(good.replace("GAE &", "GAE & &"))
    with pytest.raises(LatexWalkerParseError):
        check(good.replace("\\end{tabular}", ""))
    with pytest.raises(AssertionError):
        check_signs(good.replace("$<$", "<"))
    assert width(r"@{}l>{\raggedright\arraybackslash}p{0.4\linewidth}r@{\hspace{2em}}rr@{}") == 5


def test_intervals_stand_below_their_values_and_the_best_is_bold() -> None:
    tex = latex.table(FRAME, "50 % of a_b", "own", groups=[("One", 1), ("Two", 1)], bold={(0, 0)}, rules={1})
    check_signs(tex)
    lines = tex.splitlines()
    at = lines.index(r"GAE & \textbf{92.0} & 10 \\")
    assert lines[at + 1] == r" & {\scriptsize [91.1, 92.8]} &  \\"
    assert lines[at + 3] == r"\midrule", "controls below a rule"
    assert r"A method whose name is far too & $-$3.0 $\times$ & $<$ 2 $|$ \checkmark{} $\times$ \\" in lines
    assert r"\caption{50 \% of a\_b}" in lines
    assert r"\begin{tabular}{@{}lr@{\hspace{2em}}r@{}}" in lines
    assert r"\cmidrule(lr){2-2}\cmidrule(lr){3-3}" in lines
    assert tex.count(r"\textbf") == 1


def test_many_columns_take_the_pages_width_and_few_do_not() -> None:
    frame = pd.DataFrame({str(n): ["1"] for n in range(5)}, index=["a"])
    assert r"\begin{table*}" in latex.table(frame, "", "x")
    assert r"\begin{table}" in latex.table(frame.iloc[:, :4], "", "x")


def test_sections_and_long_tables() -> None:
    tex = latex.table(FRAME, "", "x", sections={0: "First", 1: "Second"})
    assert check(tex) == 2 + 5
    assert tex.index("First") < tex.index("GAE") < tex.index("Second") < tex.index("A method")
    frame = pd.DataFrame({"claim": ["a ≥ b", "c"], "p": ["< 0.001", "1.000"]})
    long = latex.long_table(frame, "All", "claims", {"claim": latex.flowing(0.4), "p": "r"}, gaps={1})
    check_signs(long)
    assert check(long) == 4  # the heading twice: of the first page and of those that follow
    assert r"p{0.4\linewidth}" in long
    assert long.index("$<$ 0.001") < long.index(r"\addlinespace") < long.index("1.000")


def test_published_columns_stand_apart_from_measured_ones(tmp_path: Path) -> None:
    run = read_run(write_items(write_run(tmp_path / "run", table_rows(1))))
    tex = tables.to_latex(tables.compare(run, 1))
    check_signs(tex)
    assert check(tex) == 2 + 6 + 1 + 8  # headings and metrics; headings and claims, whose cells have intervals
    assert r" & \multicolumn{5}{c}{Measured on scenes} & \multicolumn{5}{c}{Published by the paper" in tex
    assert r"\begin{tabular}{@{}lrrrrr@{\hspace{2em}}rrrrr@{}}" in tex
    row = next(line for line in tex.splitlines() if line.startswith("AP &"))
    assert row.count("&") == 10
    assert row.count(r"\textbf{13.2}") == 1, "the published 13.2 has no interval that could decide it"


def test_no_method_is_best_where_nothing_decides(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", table_rows(1)))
    assert r"\textbf" not in tables.to_latex(tables.compare(run, 1)), "no items, no decision"


def test_measures_and_areas(tmp_path: Path) -> None:
    whole = {m: {"AUROC": v, "energy_other": v} for m, v in (("oracle", 99.0), ("gae", 50.0), ("odam", 40.0))}
    run = read_run(write_items(write_run(tmp_path / "table3", measure_rows("table3", "ground_truth", whole))))
    tex = ground_truth.to_latex(ground_truth.DETECTION, run)
    check_signs(tex)
    check(tex)
    assert r"GAE & \textbf{50.0} & 50.0 \\" in tex, "larger is better, and the oracle does not count"
    assert r"ODAM & 40.0 & \textbf{40.0} \\" in tex, "smaller is better"
    assert tex.index(r"\midrule", tex.index("ODAM")) < tex.index("Oracle")
    areas = read_run(write_items(write_run(tmp_path / "figure6", perturbation_rows({"gae": 60, "odam": 50}))))
    tex = perturbation.to_latex(areas)
    check_signs(tex)
    check(tex)
    assert r"GAE & \textbf{60.0} & 60.0 & \textbf{60.0} & 60.0 \\" in tex
