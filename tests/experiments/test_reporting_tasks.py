"""Tables, figures and the report as tasks: on what a toy run wrote, and on nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_helpers import Compose, run_to

from hetexp.errors import ConfigError, DataError
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import make_samples
from hetexp.tasks import run

FIVE = "methods=[gae,odam,ours_abs,ours_pos,ours_noised]"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("table", r"nothing to make a table of:\n.*experiment=table1"),
        ("figure", r"nothing to make a figure of:(\n.*)*task=samples"),
        ("report", "make"),
    ],
)
def test_with_nothing_there_an_error_names_the_command(
    composed: Compose, tmp_path: Path, task: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(composed(f"task={task}", f"paths.outputs={tmp_path / 'outputs'}"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_table_and_figure_of_a_run(toy_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = toy_config("+experiment=table2", FIVE, "limit=4")
    run_to(cfg, tmp_path / "outputs" / "runs" / "one")
    make_samples(open_session(toy_config("task=samples", "limit=2"), tmp_path / "run"))
    capsys.readouterr()
    run(toy_config("task=table"))
    assert "Ours (abs)" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "tables" / "table2.csv").is_file()
    run(toy_config("task=figure", "figures=[figure2]"))
    assert (tmp_path / "outputs" / "figures" / "figure2.png").stat().st_size > 10_000


def test_unknown_names_are_refused(composed: Compose, tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    with pytest.raises(ConfigError, match="unknown table 'nope': choose among table1"):
        run(composed("task=table", "tables=[nope]", outputs))
    with pytest.raises(ConfigError, match="unknown task 'nope'"):
        run(composed("task.name=nope", outputs))
