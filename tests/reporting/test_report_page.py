"""The report's HTML as such: what a browser, a screen reader and a link rely on."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from report_helpers import finished_runs, write_samples

from hetexp.reporting.report import write_report

MOST_BYTES = 15 * 2**20
VOID = {"br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of each script and summary."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside: list[tuple[tuple[str, ...], str]] = []  # the open elements around a text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.inside.append((tuple(self.open), data))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything but the leaderboard, beside a page of evidence."""
    outputs = finished_runs(tmp_path_factory.mktemp("report"))
    write_samples(outputs)
    (outputs / "report").mkdir()
    (outputs / "report" / "evidence.html").write_text("<!doctype html>")
    return write_report(outputs)


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    found = Page(path.read_text(encoding="utf-8"))
    assert not found.open, "an element is not closed"
    return found


def test_ids_are_unique_and_what_refers_to_them_exists(page: Page) -> None:
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert {name for name, count in ids.items() if count > 1} == set()
    for _, attributes in page.elements:
        for name in ("for", "aria-labelledby", "list"):
            assert set((attributes.get(name) or "").split()) <= set(ids), attributes
        href = attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in ids, attributes


def test_pictures_and_links_are_inside_or_beside_the_page(page: Page, path: Path) -> None:
    pictures = page.all("img")
    assert pictures
    for attributes in pictures:
        assert (attributes["alt"] or "").strip()
        assert (attributes["src"] or "").startswith("data:image/")
    links = [a["href"] or "" for a in page.all("a") if not (a["href"] or "").startswith("#")]
    assert links == ["evidence.html"]
    assert all((path.parent / link).is_file() for link in links)
    assert not any("src" in a for a in page.all("script"))


def test_what_scrolls_has_a_name_of_its_own(page: Page) -> None:
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert regions
    assert all(a.get("tabindex") == "0" for a in regions)
    names = [a["aria-label"] for a in regions]
    assert len(set(names)) == len(names)


def test_it_is_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES


def test_findings_come_first_and_the_rest_folds(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    found = [
        text for inside, text in page.inside if inside[-1:] == ("li",) and "header" in inside and "nav" not in inside
    ]
    assert len([text for text in found if text.strip()]) == 3
    assert tags.index("img") < tags.index("details"), "the one picture is not folded"
    parts = [a for a in page.all("details") if a.get("class") == "part"]
    assert [a["id"] for a in parts if "open" in a] == ["gallery"]
    assert [a["id"] for a in parts] == [*("gallery", "table1", "table2", "sweep", "figure6", "figures", "provenance")]
    main = page.elements[tags.index("main") :]
    assert next(a for tag, a in main[1:] if tag != "noscript") in parts


def test_headings_skip_no_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_gallery_knows_class_size_and_correctness(page: Page) -> None:
    (text,) = [text for inside, text in page.inside if inside[-1:] == ("script",) and text.startswith('{"sequential"')]
    data = json.loads(text)
    right, wrong = data["detection"][0]["detections"]
    assert (right["label"], right["size"], right["correct"]) == ("zebra", "medium", True)
    assert (wrong["size"], wrong["correct"], wrong["object"]) == ("small", False, None)
    assert sum(right["object"]) == 48 * 60
    assert sum(right["object"][1::2]) == (40 - 6) * (28 - 5)
    assert [(q["answer"], q["correct"]) for q in data["vqa"]] == [("yes", True), ("yes", False)]
