"""The page in a real browser, end to end; skipped where there is no Chromium, or no Playwright to lead it.

Every step prints what it saw and how long it took (`pytest -s`); nothing depends on the times.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_helpers import file_of, scene

from hetexp.serve.app import create_app
from hetexp.serve.scenes import scenes_of
from hetexp.serve.task import listen

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
uvicorn = pytest.importorskip("uvicorn")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# What keeps the browser to itself: no services of its maker, no sandbox where the tests run as root.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SHOWN = re.compile(r"shown after (\d+) ms \(model (\d+) ms, method (\d+) ms\)")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@contextmanager
def served(play) -> Iterator[str]:
    """The page under its address."""
    with listen(0) as opened:
        host, port = opened.getsockname()
        server = uvicorn.Server(uvicorn.Config(create_app(play, scenes_of(play.session)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            yield f"http://{host}:{port}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(OPTIONS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(detector):
    with served(detector) as url:
        yield url


@contextmanager
def opened(browser, url: str, **options: Any) -> Iterator[Any]:
    """The page in a window of its own user; anything that it complains of or fetches from elsewhere is a failure."""
    context = browser.new_context(**options)
    page = context.new_page()
    faults: list[str] = []

    def note(fault: str, is_one: bool = True) -> None:
        if is_one:
            faults.append(fault)

    page.on("pageerror", lambda error: note(str(error)))
    page.on("console", lambda said: note(said.text, said.type == "error" and "status of 4" not in said.text))
    page.on("request", lambda asked: note(f"asked for {asked.url}", not asked.url.startswith((url, "data:", "blob:"))))
    page.goto(url)
    page.locator("body[data-ready]").wait_for()
    yield page
    context.close()
    assert not faults


def shown(page, step: str) -> str:
    """Wait until the stage has settled; what the status says."""
    page.locator("#stage[aria-busy=false] #status", has_text="shown after").wait_for()
    text = page.inner_text("#status")
    print(f"{step}: {text}")
    return text


def settled_outline(page) -> str:
    """The pixels of the canvas once its outline is there and no longer changes."""
    before = ""
    while True:
        page.wait_for_timeout(200)
        page.locator("#canvas[data-outlined]").wait_for()
        now: str = page.evaluate("document.querySelector('#canvas').toDataURL()")
        if now == before:
            return now
        before = now


def choose(page, number: int) -> None:
    page.locator("#scenes button").nth(number).click()


def give(page, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": data})


def downloaded(page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click(button)
    found = waiting.value
    return found.suggested_filename, Path(found.path()).read_bytes()


def label(page) -> str:
    return page.get_attribute("#canvas", "aria-label")


def test_from_a_picture_to_a_file(browser, address):
    with opened(browser, address, viewport={"width": 1280, "height": 900}) as page:
        start = time.perf_counter()
        give(page, "own.png", file_of(scene(175)))
        shown(page, "picture")
        print(f"picture to map: {1000 * (time.perf_counter() - start):.0f} ms, Playwright's steps included")
        assert page.locator("#rows button").count() == 3
        names = page.locator("#rows button span:first-child").all_inner_texts()
        first = settled_outline(page)

        frame = page.locator("#canvas").bounding_box()
        page.mouse.move(frame["x"] + 0.25 * frame["width"], frame["y"] + 0.5 * frame["height"])  # the zebra
        page.locator("#canvas[aria-label*='Relevance of zebra']").wait_for()
        hovered = settled_outline(page)
        assert hovered != first
        page.mouse.click(frame["x"] + 0.25 * frame["width"], frame["y"] + 0.5 * frame["height"])
        page.mouse.move(5, 5)
        assert "zebra" in label(page)
        assert page.locator("#rows button[aria-pressed=true]").inner_text().startswith("zebra")

        for method in ("gae", "odam", "ours_pos", "ours_noised", "rollout"):
            page.select_option("#method", method)
            page.locator("#status", has_text=page.locator(f"#method option[value={method}]").inner_text()).wait_for()
            took = SHOWN.search(shown(page, f"method {method}"))
            assert took is not None
            assert took[2] == "0"  # the trace was there
        page.select_option("#method", "ours_abs")
        page.locator("#status", has_text="Ours (abs)").wait_for()
        shown(page, "method ours_abs")
        assert settled_outline(page) == hovered

        page.locator("#scale").focus()
        for _ in range(14):
            page.keyboard.press("ArrowLeft")
        assert page.inner_text("#scale-out") == "0.30"
        start = time.perf_counter()
        assert settled_outline(page) != hovered
        print(f"slider: settled within {1000 * (time.perf_counter() - start):.0f} ms, two readings included")

        name, data = downloaded(page, "#png")
        assert name == "hetexp_ours_abs_zebra.png"
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.width == 1024
            assert picture.height > 1024  # with its caption
        name, data = downloaded(page, "#npz")
        assert name == "hetexp_ours_abs_zebra.npz"
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            assert about["row"]["label"] == "zebra"
            assert about["scale"] == 0.3
            assert stored["mask"].shape == (256, 256)
        assert set(names) == {"zebra", "elephant", "bicycle"}


def test_targets_and_corrections(browser, address):
    with opened(browser, address) as page:
        choose(page, 5)
        shown(page, "scene")
        page.check("input[value=difference]")
        page.locator("#note", has_text="−").wait_for()
        page.select_option("#other", label="dog")
        page.locator("#note", has_text="− logit(dog)").wait_for()
        page.check("input[value=box]")
        page.select_option("#side", "top")
        page.locator("#note", has_text="top side of the box").wait_for()
        page.select_option("#correction", "full")
        page.locator("#low", has_text="lowers y").wait_for()
        page.select_option("#method", "gae")
        page.locator("#note", has_text="GAE").wait_for()
        assert page.is_disabled("#correction")


def test_keyboard_alone(browser, address):
    with opened(browser, address) as page:
        page.locator("#scenes button").nth(5).focus()
        page.keyboard.press("Enter")
        shown(page, "scene by keyboard")
        page.locator("#rows button").first.focus()
        page.keyboard.press("ArrowDown")
        focused = page.locator("#rows button:focus span").first.inner_text()
        page.locator(f"#canvas[aria-label*='Relevance of {focused}']").wait_for()
        page.keyboard.press("Enter")
        assert page.locator("#rows button[aria-pressed=true] span").first.inner_text() == focused
        page.locator("#method").focus()
        page.keyboard.press("Escape")
        assert label(page) == "The picture with 3 detections"
        named = page.evaluate(
            "() => [...document.querySelectorAll('input, select, button')].filter("
            "e => !(e.labels?.length || e.textContent.trim() || e.querySelector('img[alt]'))).map(e => e.outerHTML)"
        )
        assert named == []


def test_a_large_photograph_and_a_file_that_is_none(browser, address):
    with opened(browser, address) as page:
        give(page, "photo.jpg", b"no picture at all")
        page.locator("#error", has_text="is no picture").wait_for()
        noise = np.random.default_rng(0).integers(-12, 12, (3000, 4000, 3))
        large = np.asarray(scene(175).resize((4000, 3000), Image.Resampling.BICUBIC), dtype=np.int64) + noise
        data = file_of(Image.fromarray(large.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
        start = time.perf_counter()
        give(page, "IMG_0001.JPG", data)
        shown(page, f"4000 x 3000 photograph, {len(data) / 2**20:.1f} MB")
        print(f"4000 x 3000 photograph to map: {1000 * (time.perf_counter() - start):.0f} ms")
        assert page.is_hidden("#error")
        _, content = downloaded(page, "#npz")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            assert stored["mask"].shape == (3000, 4000)
        give(page, "notes.jpg", b"still no picture")
        page.locator("#error", has_text="is no picture").wait_for()
        assert page.locator("#rows button").count() > 0  # what was shown stays


def test_two_users_at_once(browser, address):
    with opened(browser, address) as one, opened(browser, address) as other:
        choose(one, 5)
        choose(other, 0)
        shown(one, "first user")
        shown(other, "second user")
        mine, theirs = (page.locator("#rows button").all_inner_texts() for page in (one, other))
        assert mine != theirs
        for page in (one, other):
            page.select_option("#method", "gae")
        for page, expected in ((one, mine), (other, theirs)):
            page.locator("#status", has_text="GAE").wait_for()
            assert page.locator("#rows button").all_inner_texts() == expected


def test_a_picture_that_had_to_go_is_given_again(browser, address, detector):
    with opened(browser, address) as page:
        give(page, "own.png", file_of(scene(175)))
        shown(page, "picture")
        detector.kept.forget(())
        page.select_option("#method", "gae")
        page.locator("#status", has_text="GAE").wait_for()
        assert page.is_hidden("#error")


def test_question_words_regions_and_contrast(browser, answerer):
    with served(answerer) as url, opened(browser, url) as page:
        number = [s.name for s in scenes_of(answerer.session)].index("000175")
        choose(page, number)
        shown(page, "scene with its question")
        page.fill("#question", "is there a zebra?")
        page.keyboard.press("Enter")
        page.locator("#words", has_text="zebra").wait_for()
        shown(page, "question")
        assert page.locator("#words span:not(.special)").all_inner_texts() == ["is", "there", "a", "zebra", "?"]
        page.locator("#rows button", has_text="no").first.click()
        page.locator("#note", has_text="logit(yes) − logit(no)").wait_for()
        page.select_option("#method", "ours_full")
        page.locator("#status", has_text="Ours (full)").wait_for()
        took = SHOWN.search(shown(page, "method ours_full"))
        assert took is not None
        assert took[2] == "0"
        name, data = downloaded(page, "#png")
        assert name == "hetexp_ours_full_yes.png"
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.width == 1024


@pytest.mark.parametrize("width", [390, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, address, width, scheme):
    with opened(browser, address, viewport={"width": width, "height": 844}, color_scheme=scheme) as page:
        choose(page, 5)
        shown(page, f"{width} pixels, {scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
