"""README shows what outputs/reference holds, and names commands that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_shown_tables_equal_the_reference():
    spec = importlib.util.spec_from_file_location("update_reference", ROOT / "scripts" / "update_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.shown(ROOT / "outputs" / "reference") in README


def test_named_make_targets_exist():
    targets = set(re.findall(r"^([a-z0-9-]+)(?=[ :])", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"`?make ([a-z0-9]+)", README)) - {"help"}
    assert named <= targets, named - targets


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "    make test" in README
