from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from report_helpers import table_rows, write_run, write_samples

from hetexp.errors import ConfigError, DataError
from hetexp.reporting.commands import MissingInput
from hetexp.reporting.products import FIGURES, TABLES, make_figures, make_tables, write_report

WITHOUT_TORCH = """
import importlib, pkgutil, sys
from pathlib import Path
import hetexp.reporting
for module in pkgutil.walk_packages(hetexp.reporting.__path__, "hetexp.reporting."):
    importlib.import_module(module.name)
from hetexp.reporting.products import make_tables
make_tables(Path(sys.argv[1]), ["table1"])
print("torch" in sys.modules)
"""


def test_names() -> None:
    assert {"table1", "table2", "table3", "table4", "detectors", "leaderboard", "figure6"} <= set(TABLES)
    assert {"detectors", "leaderboard", "threshold_sweep", *(f"figure{n}" for n in range(1, 9))} <= set(FIGURES)
    assert list(FIGURES) == sorted(FIGURES)


def test_nothing_here_loads_torch(outputs: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_all_tables(outputs: Path) -> None:
    made = make_tables(outputs)
    assert [p.name for p in made] == ["table1", "table2", "figure6"]
    assert made[0].paths[0] == outputs / "tables" / "table1.csv"
    assert made[0].source.name == "10-00-00_table1"
    assert made[0].text == (outputs / "tables" / "table1.md").read_text(encoding="utf-8")
    assert all(path.is_file() for product in made for path in product.paths)


def test_some_tables_elsewhere(outputs: Path, tmp_path: Path) -> None:
    made = make_tables(outputs, ["table2", "table2"], to=tmp_path / "here")
    assert [p.name for p in made] == ["table2"]
    assert {p.parent for p in made[0].paths} == {tmp_path / "here"}
    assert not (outputs / "tables").exists()


def test_unknown_names_list_the_known_ones(outputs: Path) -> None:
    with pytest.raises(ConfigError, match="unknown table '1', '3': choose among table1, table2, table3, table4,"):
        make_tables(outputs, ["1", "table1", "3"])
    with pytest.raises(ConfigError, match=r"unknown figure 'sweep': choose among detectors, .*threshold_sweep"):
        make_figures(outputs, ["sweep"])
    with pytest.raises(ConfigError, match="no table is named: choose among"):
        make_tables(outputs, [])


def test_without_names_what_is_missing_is_left_out(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hetexp"):
        made = make_figures(outputs)
    assert [p.name for p in made] == ["figure6", "threshold_sweep"]
    assert "left out: figure5" in caplog.text
    assert "task=samples model=lxmert" in caplog.text


def test_nothing_there_names_all_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as raised:
        make_tables(tmp_path)
    for experiment in ("table1", "table2", "figure6"):
        assert f"python run.py +experiment={experiment}" in str(raised.value)
    with pytest.raises(MissingInput, match="there is nothing to make a figure of") as raised:
        make_figures(tmp_path)
    assert str(raised.value).count("task=samples model=detr") == 1
    with pytest.raises(DataError, match="the report lacks"):
        write_report(tmp_path)


def test_an_incomplete_run_is_not_left_out_in_silence(outputs: Path) -> None:
    (outputs / "runs" / "2026-01-01" / "10-05-00_table2" / "results.csv").unlink()
    write_run(outputs / "runs" / "2026-01-02", [r for r in table_rows(2) if r["method"] != "odam"])
    (made,) = make_tables(outputs, ["table2"])
    assert "Not in this run: ODAM." in made.text
    write_run(outputs / "runs" / "2026-01-03", [r | {"threshold": 0.5} for r in table_rows(2)])
    with pytest.raises(DataError, match=r"has none of gae, odam, .* at threshold 0\.3"):
        make_tables(outputs)


def test_given_results(outputs: Path, tmp_path: Path) -> None:
    rows = table_rows(1, lambda metric, method, value: value + 1)
    run = write_run(tmp_path / "mine", rows)
    (made,) = make_tables(outputs, results=run)
    assert (made.name, made.source) == ("table1", run)
    assert "14.1" in made.text
    assert make_tables(outputs, ["table1"], results=run / "results.csv")[0].text == made.text
    with pytest.raises(ConfigError, match=r"holds table1: name what to make of it, figures=\[detectors, figure1"):
        make_figures(outputs, results=run)
    with pytest.raises(ConfigError, match="figure2 is drawn from the samples"):
        make_figures(outputs, ["figure2"], results=run)
    with pytest.raises(DataError, match="no perturbation curves"):
        make_figures(outputs, ["figure6"], results=run)


def test_figures_of_samples_warn_of_what_they_lack(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_samples(outputs, ("gae", "my_method"), shown=("gae", "my_method"))
    (made,) = make_figures(outputs, ["figure2"])
    assert made.source == outputs / "samples" / "detection"
    assert [p.suffix for p in made.paths] == [".png", ".pdf"]
    assert "figure2: Without ODAM, Ours (abs), Ours (pos), Ours (noised)" in caplog.text
    caplog.clear()
    make_figures(outputs, ["figure7"])
    assert not caplog.records


def test_report(outputs: Path) -> None:
    write_samples(outputs)
    assert write_report(outputs) == outputs / "report" / "index.html"
