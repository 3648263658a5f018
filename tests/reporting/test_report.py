from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from report_helpers import table_rows, write_run, write_samples
from safetensors.torch import load_file

from hetexp.errors import DataError
from hetexp.evaluation.masks import segment
from hetexp.reporting import report
from hetexp.reporting.gallery import as_json
from hetexp.reporting.report import build, write_report

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


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
    for anchor in ("verdicts", "table1", "table2", "sweep", "gallery", "figure6", "figure2", "figure8", "provenance"):
        assert f'id="{anchor}"' in page
    assert "<strong>10 holds</strong>" in page
    assert "<strong>8 holds, 2 undecided</strong>" in page
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


DRIVER = """
<script>
window.problems = [];
addEventListener("error", (e) => problems.push(e.message));
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
</script>
"""

STEPS = """
<script>
(async () => {
  const wait = () => new Promise((done) => setTimeout(done, 60));
  const seen = {};
  const find = (s) => document.querySelector(s);
  const set = (s, value, event) => {
    find(s).value = value;
    find(s).dispatchEvent(new Event(event, {bubbles: true}));
  };
  const picture = (s) => find(s + " canvas.relevance").toDataURL();
  await wait();
  seen.start = find("#detections").dataset.shown;
  const before = picture("#detections");
  set("#d-method", "odam", "change"); await wait();
  seen.method = find("#detections").dataset.shown;
  seen.methodChanged = picture("#detections") !== before;
  set("#d-detection", "1", "change"); await wait();
  seen.detection = find("#detections").dataset.shown;
  find("[name=mode][value=mask]").click(); await wait();
  seen.mask = [find("#detections").dataset.shown, Number(find("#detections").dataset.pixels)];
  set("#d-scale", "0.3", "input"); await wait();
  seen.low = [find("#detections").dataset.shown, Number(find("#detections").dataset.pixels)];
  seen.output = find("#detections output").value;
  set("#d-sample", "1", "change"); await wait();
  seen.sample = find("#detections").dataset.shown;
  const words = find("#questions .words").textContent;
  set("#q-sample", "1", "change"); await wait();
  seen.words = [words, find("#questions .words").textContent];
  set("#q-method", "ours_full:difference", "change"); await wait();
  seen.question = find("#questions").dataset.shown;
  seen.status = find("#questions [role=status]").textContent;
  seen.focusable = [...document.querySelectorAll(".gallery select, .gallery input")].every((e) => e.tabIndex >= 0);
  seen.overflow = document.documentElement.scrollWidth > innerWidth;
  seen.problems = window.problems;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
})();
</script>
"""


def browse(page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """The page's DOM after its scripts ran, and what the browser logged."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=20000", "--enable-logging=stderr", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_switches_work_in_a_browser(everything: Path, tmp_path: Path) -> None:
    text = write_report(everything, tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    page = tmp_path / "driven.html"
    page.write_text(text.replace("<head>", "<head>" + DRIVER).replace("</body>", STEPS + "</body>"), encoding="utf-8")
    dom, log = browse(page, tmp_path / "profile", "--window-size=390,844")
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert seen["problems"] == []
    assert seen["start"] == "0/0/gae/heat/1"
    assert seen["method"] == "0/0/odam/heat/1"
    assert seen["methodChanged"]
    assert seen["detection"] == "0/1/odam/heat/1"
    assert seen["mask"][0] == "0/1/odam/mask/1"
    assert seen["low"][0] == "0/1/odam/mask/0.3"
    assert seen["output"] == "0.30"
    assert seen["sample"].startswith("1/")
    assert seen["words"][0] != seen["words"][1]
    assert seen["question"] == "1/ours_full:difference"
    assert "is there a dog?" in seen["status"]
    assert seen["focusable"]
    assert not seen["overflow"], "a phone would scroll sideways"
    # the browser's masks are the evaluation's, to the pixel
    with Image.open(everything / "samples" / "detection" / "1" / "image.png") as image:
        size = image.size[::-1]
    relevance = load_file(everything / "samples" / "detection" / "1" / "relevance.safetensors")["odam"][1:]
    for scale, key in ((1.0, "mask"), (0.3, "low")):
        assert seen[key][1] == int(torch.count_nonzero(segment(relevance, scale, (96, 120), size)))
