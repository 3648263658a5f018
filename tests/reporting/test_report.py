from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from report_helpers import table_rows, write_run, write_samples

from hetexp.errors import DataError
from hetexp.reporting import report
from hetexp.reporting.gallery import as_json
from hetexp.reporting.report import build


@pytest.fixture
def everything(outputs: Path) -> Path:
    """Runs of every experiment and samples of both models."""
    write_samples(outputs)
    return outputs


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered, which takes most of the time."""

    def close(figure: Figure, vector: bool = False) -> str:
        plt.close(figure)
        return "data:,"

    monkeypatch.setattr(report, "data_uri", close)


def test_page_holds_every_part_and_needs_no_network(everything: Path) -> None:
    page = build(everything)
    assert build(everything) == page, "the same results give the same page"
    for anchor in ("table1", "table2", "sweep", "gallery", "figure6", "figure2", "figure8", "provenance"):
        assert f'id="{anchor}"' in page
    assert "orders of two methods by AP: 10 hold<" in page
    assert "orders of two methods by AP: 8 hold, 2 undecided<" in page
    assert "detr@0123456789ab" in page
    assert "python run.py +experiment=table1" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"url\(|@import|<link(?! rel=\"icon\")", page)


@pytest.mark.usefixtures("undrawn")
def test_missing_parts_are_named_with_their_commands(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"python run\.py task=samples model=detr"):
        build(outputs)
    page = build(outputs, partial=True)
    assert "Parts are missing" in page
    assert 'id="detections"' not in page
    with pytest.raises(DataError, match=r"\+experiment=table1"):
        build(tmp_path / "nothing", partial=True)


@pytest.mark.usefixtures("undrawn")
def test_texts_of_the_data_cannot_become_markup(everything: Path) -> None:
    folder = everything / "samples" / "vqa" / "questions-0"
    info = json.loads((folder / "info.json").read_text())
    info["question"] = "</script><script>alert(1)</script>"
    (folder / "info.json").write_text(json.dumps(info))
    assert "<script>alert" not in build(everything)
    assert as_json({"a": "</script>"}) == '{"a":"\\u003c/script>"}'


@pytest.mark.usefixtures("undrawn")
def test_figures_say_which_of_the_papers_methods_they_lack(outputs: Path) -> None:
    write_samples(outputs, ("gae", "ours_abs", "my_method(power=2)"), shown=("gae", "ours_abs", "my_method(power=2)"))
    page = build(outputs)
    assert page.count("Without ODAM, Ours (pos), Ours (noised), which these samples do not hold.") == 2 * 4  # and alt
    found = re.search(r'id="gallery-data">(.*?)</script>', page)
    assert found is not None
    data = json.loads(found[1])
    assert data["labels"]["detection"]["my_method(power=2)"] == "my_method(power=2)"
    assert list(data["detection"][0]["maps"]) == ["gae", "ours_abs", "my_method(power=2)"]
    methods = ["gae", "ours_abs", "ours_full", "homologous", "my_method(power=2)"]
    assert list(data["labels"]["vqa"]) == [*methods, "ours_full:difference"], "further targets of signed methods only"


@pytest.mark.usefixtures("undrawn")
def test_further_methods_stand_in_the_tables(everything: Path) -> None:
    rows = table_rows(1) + [r | {"method": "my_method", "value": 99.0} for r in table_rows(1) if r["method"] == "gae"]
    late = write_run(everything / "runs" / "2026-01-02" / "09-00-00_table1", rows)
    os.utime(late / "results.csv", ns=(2**62, 2**62))
    page = build(everything)
    assert '<th scope="col">my_method</th>' in page
    assert '<td class="best">99.0</td>' in page
