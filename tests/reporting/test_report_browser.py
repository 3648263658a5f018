"""The report in a real browser, opened from disk; skipped where there is no Chromium, or no Playwright to lead it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from report_helpers import box_mask, finished_runs, write_samples
from safetensors.torch import load_file

from hetexp.evaluation.masks import segment
from hetexp.reporting.names import in_order
from hetexp.reporting.report import write_report
from hetexp.reporting.run_lengths import decode_masks

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every experiment, samples of both models, the last image for the gallery alone, and the report."""
    found = finished_runs(tmp_path_factory.mktemp("browser"))
    write_samples(found)
    path = found / "samples" / "detection" / "2" / "info.json"
    info = json.loads(path.read_text()) | {"part": "gallery"}
    info["detections"][1]["label"] = "horse"
    path.write_text(json.dumps(info))
    write_report(found)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(OPTIONS))
        yield launched
        launched.close()


@contextmanager
def opened(browser: Any, outputs: Path, fragment: str = "", **options: Any) -> Iterator[Any]:
    """The page; anything that it complains of or fetches from elsewhere is a failure."""
    context = browser.new_context(**options)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text))
    page.on("request", lambda asked: faults.extend([] if asked.url.startswith(("file:", "data:")) else [asked.url]))
    page.goto(f"{(outputs / 'report' / 'index.html').as_uri()}{fragment}")
    page.locator("#detections[data-shown]").wait_for()
    page.locator("#questions[data-shown]").wait_for()
    yield page
    context.close()
    assert faults == []


def shown(page: Any, gallery: str, wanted: str) -> None:
    """Wait until a gallery has drawn what is wanted."""
    page.locator(f'#{gallery}[data-shown="{wanted}"]').wait_for(timeout=10_000)


def picture(page: Any, method: str) -> str:
    return str(page.locator(f'#detections .tiles [data-method="{method}"] canvas').evaluate("c => c.toDataURL()"))


def test_all_methods_stand_side_by_side_and_masks_are_the_evaluations(browser: Any, outputs: Path) -> None:
    folder = outputs / "samples" / "detection" / "1"
    with Image.open(folder / "image.png") as image:
        size = image.size[::-1]
    maps = load_file(folder / "relevance.safetensors")
    with opened(browser, outputs, "#detection-1-1") as page:
        shown(page, "detections", "#detection-1-1/heat/1")
        tiles = page.locator("#detections .tiles button")
        assert [tile.get_attribute("data-method") for tile in tiles.all()] == ["", *in_order(maps)]
        assert picture(page, "gae") != picture(page, "odam")
        page.locator("#detections [value=mask]").check()
        shown(page, "detections", "#detection-1-1/mask/1")
        for scale in (1.0, 0.3):
            page.locator("#d-scale").fill(str(scale))
            shown(page, "detections", f"#detection-1-1/mask/{scale:g}")
            assert page.locator("#d-scale").get_attribute("aria-valuetext") == f"{scale:.2f} times Otsu's threshold"
            for method, found in maps.items():
                drawn = page.locator(f'#detections .tiles [data-method="{method}"]').get_attribute("data-pixels")
                assert int(drawn) == int(torch.count_nonzero(segment(found[1:], scale, (96, 120), size)))


def test_the_iou_is_with_the_annotated_object(browser: Any, outputs: Path) -> None:
    found = load_file(outputs / "samples" / "detection" / "1" / "relevance.safetensors")["gae"][:1]
    mask = segment(found, 1.0, (96, 120), (48, 60))[0].numpy()
    truth = decode_masks([box_mask((6, 5), (40, 28))], "here")[0].astype(bool)
    with opened(browser, outputs, "#detection-1-0") as page:
        page.locator("#d-scale").focus()
        page.keyboard.press("ArrowLeft")  # a key moves the threshold, and a threshold shows masks
        shown(page, "detections", "#detection-1-0/mask/0.95")
        page.keyboard.press("ArrowRight")
        shown(page, "detections", "#detection-1-0/mask/1")
        iou = (mask & truth).sum() / (mask | truth).sum()
        assert f"IoU {iou:.2f}" in page.locator('#detections [data-method="gae"]').inner_text()
        page.locator('#detections .strip a[href="#detection-1-1"]').click()  # a wrong detection has no object
        shown(page, "detections", "#detection-1-1/mask/1")
        assert "IoU" not in page.locator("#detections .tiles").inner_text()


def test_filters_leave_what_passes_all(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs) as page:
        links = page.locator("#detections .strip a")
        status = page.locator("#detections [role=status]")
        assert status.inner_text() == "4 of 4 detections"
        page.locator("#d-class").select_option("horse")
        assert [a.get_attribute("href") for a in links.all() if a.is_visible()] == ["#detection-2-1"]
        shown(page, "detections", "#detection-2-1/heat/1")
        page.locator("#d-verdict").select_option("correct")
        assert status.inner_text() == "0 of 4 detections"
        assert page.locator("#detections .title").inner_text() == "No sample passes the filters."
        assert page.locator("#detections .tiles button").count() == 0
        page.locator("#d-class").select_option("")
        page.locator("#d-size").select_option("medium")
        assert status.inner_text() == "2 of 4 detections"
        page.locator("#detections .walk a", has_text="next").click()
        shown(page, "detections", "#detection-2-0/heat/1")
        page.evaluate("location.hash = '#detection-1-1'")  # a link to what the filters hide clears them
        shown(page, "detections", "#detection-1-1/heat/1")
        assert status.inner_text() == "4 of 4 detections"
        page.locator("#q-verdict").select_option("wrong")
        assert page.locator("#questions [role=status]").inner_text() == "1 of 2 questions"
        assert "is there a dog?" in page.locator("#questions .title").inner_text()


def test_a_picture_is_enlarged_by_key_and_gives_focus_back(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs) as page:
        tile = page.locator('#detections .tiles [data-method="gae"]')
        tile.focus()
        page.keyboard.press("Enter")
        dialog = page.locator("#enlarged")
        dialog.wait_for()
        large = dialog.locator("canvas").evaluate("c => c.toDataURL()")
        assert large == picture(page, "gae")
        page.keyboard.press("ArrowRight")
        page.locator('#enlarged[data-method="odam"]').wait_for()
        assert dialog.locator("canvas").evaluate("c => c.toDataURL()") == picture(page, "odam")
        page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        assert tile.evaluate("t => t === document.activeElement")
        page.locator('#questions .tiles [data-method="ours_full:difference"]').click()
        assert "zebra" in dialog.locator(".words").inner_text()
        dialog.locator("[name=close]").click()
        dialog.wait_for(state="hidden")


def test_links_open_what_is_folded(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs, "#table2") as page:
        assert page.locator("#table2").evaluate("d => d.open")
        assert not page.locator("#table1").evaluate("d => d.open")
        page.locator('nav a[href="#table1"]').click()
        page.locator("#table1[open]").wait_for()
        page.locator("#gallery > summary").click()
        page.locator("#gallery:not([open])").wait_for(state="attached")
        page.evaluate("location.hash = '#detection-2-0'")
        page.locator("#gallery[open]").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(browser: Any, outputs: Path, scheme: str) -> None:
    with opened(browser, outputs, viewport=PHONE, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        targets = page.locator("button:visible, select:visible, summary:visible, #detections .strip a:visible").all()
        assert targets
        assert all(box["height"] >= 24 for t in targets if (box := t.bounding_box()))
