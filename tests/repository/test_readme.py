"""README and docs show what outputs/reference holds, and name commands and files that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from PIL import Image

import hetexp
from hetexp.paths import asset

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "outputs" / "reference"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def update_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_reference", ROOT / "scripts" / "update_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_shown_tables_equal_the_reference(update_reference, name):
    page = (ROOT / name).read_text(encoding="utf-8")
    assert update_reference.replaced(page, update_reference.SHOWN[name](REFERENCE)) == page


def test_a_page_without_marks_is_refused(update_reference):
    with pytest.raises(ValueError, match="lacks the marks"):
        update_reference.replaced("no marks here", "a table")


def test_findings_are_those_of_the_reference():
    """The numbers of README's paragraph on findings, from the sweep and the perturbation table."""
    findings = README.partition("## What was found")[2].partition("\n## ")[0]
    sweep = pd.read_csv(REFERENCE / "figures" / "threshold_sweep.csv").set_index("threshold")
    for label, method in {
        "GAE": "gae",
        "Ours (abs)": "ours_abs",
        "Ours (noised)": "ours_noised",
        "Ours (pos)": "ours_pos",
    }.items():
        best = f"{label} {sweep[method].max():.1f} at {sweep[method].idxmax():g}"
        assert best in findings, best
    auc = pd.read_csv(REFERENCE / "tables" / "figure6.csv").set_index("method")
    for method in ("Ours (abs)", "Random (control)"):
        for column in ("Positive, image ↓", "Negative, text ↑"):
            assert auc.loc[method, column].split()[0] in findings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9_-]+)(?=[ :])", makefile, re.M)) | set(re.findall(r"figure\d", makefile))
    named = set(re.findall(r"(?:`|^ {4})make ([a-z0-9_]+)", page.read_text(encoding="utf-8"), re.M))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:hetexp|conf|scripts|tests|docs|outputs/reference)/[\w/.-]+)`", text)
    missing = [name for name in named if not (ROOT / name).exists() and name != "conf/local/default.yaml"]
    assert not missing, missing


def test_readme_is_short():
    assert len(README.splitlines()) < 150


def test_readmes_python_runs(tmp_path, monkeypatch):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    assert "explanation.save(" in code
    Image.open(asset("scenes/val/images/000175.jpg")).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["explanation"], hetexp.Explanation)
    assert (tmp_path / "explained" / "info.json").is_file()


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "    make test" in README
