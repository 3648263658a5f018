"""What makes stored relevance stale: the computation, and nothing that is only written about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetexp.attribution.integrated_gradients import IntegratedGradients
from hetexp.experiments.engine.fingerprint import SHARED, attribution_sources, class_digest, source_digest
from hetexp.paths import PACKAGE

SOURCE = '''"""A module."""

SCALE = 2.0


def relevance(x: float) -> float:
    """Twice x."""
    return SCALE * x  # scaled
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# scaled", "# scaled by SCALE", True),
        ('"""Twice x."""', '"""x, scaled."""', True),
        ("\n\n\ndef", "\n\n\n# a heading\ndef", True),
        ("2.0", "2.5", False),
        ("SCALE * x", "SCALE + x", False),
    ],
)
def test_only_what_is_computed_counts(tmp_path: Path, old: str, new: str, same: bool) -> None:
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(SOURCE)
    after.write_text(SOURCE.replace(old, new))
    assert before.read_text() != after.read_text()
    assert (source_digest(before) == source_digest(after)) is same


def test_a_method_is_its_module_and_what_that_is_built_on(tmp_path: Path) -> None:
    """Imports are followed, cycles included; other packages are not."""
    folder = tmp_path / "attribution"
    folder.mkdir()
    (folder / "one.py").write_text(
        "import json\nfrom hetexp.attribution.two import f\nfrom hetexp.models import trace\n"
    )
    (folder / "two.py").write_text("from hetexp.attribution import three\n")
    (folder / "three.py").write_text("import hetexp.attribution.two\n")
    (folder / "four.py").write_text("")
    found = attribution_sources(folder / "one.py", tmp_path)
    assert {path.stem for path in found} == {"one", "two", "three"}


def test_integrated_gradients_are_built_on_input_gradients() -> None:
    path = PACKAGE / "attribution" / "integrated_gradients.py"
    assert {"integrated_gradients.py", "input_gradient.py", "passes.py"} <= {p.name for p in attribution_sources(path)}
    assert class_digest(IntegratedGradients) != source_digest(path)


def test_no_module_of_attribution_is_forgotten() -> None:
    """Each belongs to every method's shared part, or is a method's own, or says nothing about numbers."""
    from hetexp.attribution.registry import METHODS

    everything = set((PACKAGE / "attribution").glob("*.py"))
    shared = {path for pattern in SHARED for path in PACKAGE.glob(pattern)}
    modules = {record.implementation.partition(":")[0].rpartition(".")[2] for record in METHODS.values()}
    own = {p for name in modules for p in attribution_sources(PACKAGE / "attribution" / f"{name}.py")}
    assert {path.stem for path in everything - shared - own} <= {"__init__", "registry", "method", "homologous"}
