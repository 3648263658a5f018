"""The leaderboard from runs with made-up numbers: what belongs to it, what is shown, and who is not beaten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from latex_checks import check, check_signs
from report_helpers import BASE, write_items, write_run

from hetexp.errors import ConfigError, DataError
from hetexp.reporting.board import frontier, read_board
from hetexp.reporting.board_page import page_context
from hetexp.reporting.figures.leaderboard import draw_leaderboard, points
from hetexp.reporting.leaderboard import advice, refusals, shown, timed, to_latex
from hetexp.reporting.products import make_figures, make_tables

COST = {
    "explanations": 2,
    "forward": 1,
    "backward": 1,
    "seconds": 0.1,
    "seconds_ratio": 2.0,
    "memory": 10,
    "memory_ratio": 1.5,
}


def rows_of(method: str, quality: float, experiment: str | None = "leaderboard") -> list[dict[str, Any]]:
    of_run = {**BASE, "experiment": experiment, "method": method}
    rows = [{**of_run, "panel": "ground_truth", "metric": "AUPRC", "value": quality, "ci_low": quality - 2.0}]
    rows[0]["ci_high"] = quality + 2.0
    for scale, shift in ((0.3, -1), (0.6, 3), (1.0, 0)):
        rows.append({**of_run, "panel": "segm", "metric": "AP", "threshold": scale, "value": quality / 2 + shift})
    return rows


def board_run(
    folder: Path, rows: list[dict[str, Any]], costs: dict[str, dict[str, Any]], limit: int | None, when: int
) -> None:
    write_run(folder, rows)
    (folder / "config.yaml").write_text(f"limit: {'null' if limit is None else limit}\n")
    about = {k: BASE[k] for k in ("model", "checkpoint", "data")}
    frame = pd.DataFrame([{**about, "method": m, "refused": None, **c} for m, c in costs.items()])
    if costs:
        frame.to_csv(folder / "costs.csv", index=False)
    os.utime(folder / "results.csv", (when, when))


@pytest.fixture
def board_outputs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    first = [*rows_of("gae", 40.0), *rows_of("ours_pos", 50.0), *rows_of("random", 10.0)]
    prices = {"gae": COST, "ours_pos": COST | {"seconds_ratio": 3.0}, "random": COST | {"seconds_ratio": 1.0}}
    refused = {"gae_lrp": {"refused": "there is no rule for it"}}
    board_run(runs / "a", first, prices | refused, 100, 1)
    few = [*rows_of("gae", 44.0, "leaderboard_passes"), *rows_of("d_rise", 60.0, "leaderboard_passes")]
    board_run(runs / "b", few, {"gae": COST, "d_rise": COST | {"forward": 250, "seconds_ratio": 200.0}}, 10, 2)
    return tmp_path


def test_the_decidedly_best_of_each_column_is_bold(board_outputs: Path) -> None:
    assert r"\textbf" not in to_latex(read_board(board_outputs)), "no single items, no decision"
    for run in ("a", "b"):
        write_items(board_outputs / "runs" / run)
    tex = to_latex(read_board(board_outputs))
    parts = tex.split(r"\end{table")
    assert r"Ours (pos) & \textbf{50.0} & \textbf{25.0} & \textbf{24.0} & \textbf{28.0 at 0.6} & " in parts[0]
    assert r"D-RISE & \textbf{60.0} & " in parts[1]
    assert tex.count(r"\textbf") == 8
    check(tex)
    check_signs(tex)


def test_parts_and_numbers(board_outputs: Path) -> None:
    board = read_board(board_outputs)
    assert board.parts() == [("detr", "first 100"), ("detr", "first 10")]
    whole = shown(board, "detr", "first 100")
    assert list(whole.index) == ["GAE", "Ours (pos)", "Random (control)"]
    assert whole.loc["GAE", "AUPRC ↑"] == "40.0 [38.0, 42.0]"
    assert whole.loc["GAE", "AP, 1 × Otsu ↑"] == "20.0"
    assert whole.loc["GAE", "AP, best scale ↑"] == "23.0 at 0.6"
    few = shown(board, "detr", "first 10")
    assert few.loc["D-RISE", "forward passes"] == "250"
    assert few.loc["GAE", "AUPRC ↑"].startswith("44.0")
    assert timed(board).loc["D-RISE"].tolist() == ["200.0", "1.5"]
    assert refusals(board) == ["GAE (LRP) is not in the rows of detr: there is no rule for it."]


def test_a_method_of_your_own_joins(board_outputs: Path) -> None:
    """A run without an experiment on the same items does, and the newest counts; other items and other data do not."""
    runs = board_outputs / "runs"
    board_run(runs / "c", rows_of("mine", 45.0, None), {}, 100, 3)
    board_run(runs / "d", rows_of("mine", 47.0, None), {"mine": COST}, 100, 4)
    board_run(runs / "e", rows_of("mine", 99.0, None), {}, 7, 5)
    board_run(runs / "f", [{**row, "data": "other"} for row in rows_of("mine", 98.0, None)], {}, 100, 6)
    board_run(runs / "g", rows_of("mine", 97.0, "table3"), {}, 100, 7)
    board = read_board(board_outputs)
    assert [items for _, items in board.parts()] == ["first 100", "first 10"]
    whole = shown(board, "detr", "first 100")
    assert whole.loc["mine", "AUPRC ↑"] == "47.0 [45.0, 49.0]"
    assert whole.loc["mine", "forward passes"] == "1"


def test_advice(board_outputs: Path) -> None:
    """A larger budget is named only where it gains a point; controls and methods on fewer items are no advice."""
    board = read_board(board_outputs)
    assert advice(board) == [
        "DETR, by AUPRC: Ours (pos) (50.0) for a forward and a backward pass; a larger budget gains less than a point."
    ]
    dear = {"forward": 100.0, "backward": 100.0}
    board_run(board_outputs / "runs" / "z", rows_of("mine", 80.0, None), {"mine": COST | dear}, 100, 9)
    assert "; mine (80.0) for any number of passes;" in advice(read_board(board_outputs))[0]


def test_frontier() -> None:
    cost = pd.Series({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 2.0})
    quality = pd.Series({"a": 10.0, "b": 20.0, "c": 20.5, "d": 30.0, "e": 15.0})
    assert frontier(quality, cost) == ["a", "b", "d"]
    assert frontier(quality, cost, margin=0) == ["a", "b", "c", "d"]


def test_files(board_outputs: Path, tmp_path: Path) -> None:
    (table,) = make_tables(board_outputs, ["leaderboard"], tmp_path / "tables")
    assert {p.name for p in table.paths} == {
        *(f"leaderboard.{kind}" for kind in ("csv", "md", "tex")),
        *(f"leaderboard_costs.{kind}" for kind in ("csv", "md")),
    }
    tidy = pd.read_csv(tmp_path / "tables" / "leaderboard.csv")
    assert set(tidy["items"]) == {"first 100", "first 10"}
    assert "seconds" not in (tmp_path / "tables" / "leaderboard.csv").read_text()  # times vary from run to run
    assert "the first 100 items" in table.text
    (figure,) = make_figures(board_outputs, ["leaderboard"], tmp_path / "figures")
    assert sorted(p.suffix for p in figure.paths) == [".pdf", ".png"]
    with pytest.raises(ConfigError, match="leave results out"):
        make_tables(board_outputs, ["leaderboard"], tmp_path, board_outputs / "runs" / "a")


def test_figure(board_outputs: Path) -> None:
    """One panel; the best methods of the line are named, controls are not, and the subset's point is there."""
    board = read_board(board_outputs)
    column, found = points(board, "detr")
    assert column.heading == "AUPRC"
    assert found["subset"].to_dict() == {"d_rise": True, "gae": False, "ours_pos": False, "random": False}
    axes = draw_leaderboard(board).axes
    assert axes[0].get_xscale() == "log"
    assert [text.get_text() for text in axes[0].texts] == ["Ours (pos)"]


def test_page(board_outputs: Path) -> None:
    context = page_context(read_board(board_outputs), "data:,")
    assert context["models"] == ["detr"]
    assert len(context["rows"]) == 5
    width = len(context["columns"])
    assert all(len(row["cells"]) == width for row in context["rows"])
    assert context["rows"][0]["cells"][-4:] == [1, 1, 2, 1.5]


def test_without_costs(tmp_path: Path) -> None:
    """With costs=0 there is no costs.csv: the table has no passes and advises nothing, the figure says what to do."""
    board_run(tmp_path / "runs" / "a", rows_of("gae", 40.0), {}, None, 1)
    board = read_board(tmp_path)
    assert shown(board, "detr", "all").loc["GAE", "forward passes"] == "n/a"
    assert (timed(board).empty, advice(board), refusals(board)) == (True, [], [])
    (table,) = make_tables(tmp_path, ["leaderboard"], tmp_path / "tables")
    assert "| GAE " in table.text
    assert "which budget" not in table.text
    assert "costs=5" in (tmp_path / "tables" / "leaderboard_costs.md").read_text()
    with pytest.raises(DataError, match="costs=5"):
        draw_leaderboard(board)
    assert page_context(board, "")["rows"][0]["cells"][-4:] == [None] * 4


@pytest.mark.parametrize("costs", [{}, {"gae": COST}])
def test_without_quality(tmp_path: Path, costs: dict[str, dict[str, Any]]) -> None:
    """With metrics=[segm] there is nothing to advise by; another model's panel is drawn all the same."""
    rows = [row for row in rows_of("gae", 40.0) if row["panel"] == "segm"]
    board_run(tmp_path / "runs" / "a", rows, costs, None, 1)
    board = read_board(tmp_path)
    assert board.quality("detr") is None
    (table,) = make_tables(tmp_path, ["leaderboard"], tmp_path / "tables")
    assert "AP, 1 × Otsu" in table.text
    assert "which budget" not in table.text
    with pytest.raises(DataError, match="AUPRC or .* of detr" if costs else "costs=5"):
        draw_leaderboard(board)
    other = {"model": "yolos"}
    board_run(
        tmp_path / "runs" / "b", [{**row, **other} for row in rows_of("gae", 40.0)], {"gae": COST | other}, None, 2
    )
    axes = draw_leaderboard(read_board(tmp_path)).axes
    assert [ax.get_title(loc="left") for ax in axes if ax.axison] == ["YOLOS"]


def test_without_a_run(outputs: Path) -> None:
    with pytest.raises(DataError, match=r"no finished run of leaderboard .* \+experiment=leaderboard"):
        read_board(outputs)
