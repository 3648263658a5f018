"""The server behind the page, asked over HTTP as the page asks it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serve_helpers import ask, client_of, file_of, give, numbers, play_of, scene

import hetexp
from hetexp.config import composed
from hetexp.errors import ConfigError
from hetexp.evaluation.masks import segment
from hetexp.models.trace import Target
from hetexp.paths import asset
from hetexp.serve import session as serve_session
from hetexp.serve.choices import Choice
from hetexp.serve.pictures import MOST_BYTES, shown_size
from hetexp.serve.task import listen, run_serve
from hetexp.serve.views import Asked
from hetexp.targets import BoxSide, Difference, Logit, Second


@pytest.fixture(scope="module")
def token(page):
    return give(page, file_of(scene(175))).json()["token"]


@pytest.fixture(scope="module")
def own():
    """The same explained from Python: adapter, inputs, and detections by falling probability."""
    adapter = hetexp.load_model(asset("detr"))
    inputs = adapter.prepare([scene(175)])
    (found,) = adapter.detect(inputs)
    kept = [q for q in found.scores.argsort(descending=True).tolist() if found.scores[q] > adapter.score_threshold]
    return adapter, inputs, found, kept


def recorded(monkeypatch, name: str) -> list[Any]:
    """Arguments of every call of a function that the page's session calls."""
    calls: list[Any] = []
    real = getattr(serve_session, name)

    def call(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(serve_session, name, call)
    return calls


def maps(page, token: str, **more) -> np.ndarray:
    """Relevance of every prediction, each asked for by itself."""
    count = len(ask(page, token, **more).json()["rows"])
    answers = [ask(page, token, row=row, **more).json() for row in range(count)]
    return np.concatenate([numbers(a["relevance"]["image"]) for a in answers])


def test_the_page_is_served_whole_and_fetches_nothing_from_elsewhere(page):
    answer = page.get("/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for name in ("page.js", "server.js", "draw.js", "sheet.js", "page.css"):
        text = page.get(f"/{name}").text
        assert "http:" not in text
        assert "https:" not in text
    assert "http" not in answer.text


def test_relevance_is_what_explain_gives(page, token, own):
    adapter, inputs, _, kept = own
    answer = ask(page, token).json()
    expected = hetexp.explain(adapter, inputs, "ours_abs", [Logit(query=q) for q in kept])
    np.testing.assert_allclose(maps(page, token), expected["ours_abs"]["image"], rtol=1e-5)
    assert numbers(answer["relevance"]["image"]).shape == (1, 12, 12)
    assert [row["label"] for row in answer["rows"]] == expected.labels
    assert [row["target"] for row in answer["rows"]] == expected.targets
    assert expected.boxes is not None
    np.testing.assert_allclose([row["box"] for row in answer["rows"]], expected.boxes, rtol=1e-6)


@pytest.mark.parametrize("target", ["other", "difference", "box"])
def test_targets(page, token, own, target):
    adapter, inputs, found, kept = own
    other = 3
    targets: dict[str, Callable[[int], Target]] = {
        "other": lambda q: Logit(other, q),
        "difference": lambda q: Difference(int(found.labels[q]), other, q),
        "box": lambda q: BoxSide("top", q),
    }
    made = targets[target]
    asked = {"method": "ours_pos", "target": target, "other": other, "side": "top"}
    answer = ask(page, token, **asked).json()
    expected = hetexp.explain(adapter, inputs, "ours_pos", [made(q) for q in kept])
    np.testing.assert_allclose(maps(page, token, **asked), expected["ours_pos"]["image"], rtol=1e-5, atol=1e-8)
    assert [row["target"] for row in answer["rows"]] == expected.targets


def test_correction_and_noise_link_change_the_method(page, token):
    changed = ask(page, token, method="ours_abs", correction="pos", noise_link="row").json()
    named = ask(page, token, method="ours_noised").json()
    assert changed["method"] == named["method"]
    np.testing.assert_array_equal(*(numbers(x["relevance"]["image"]) for x in (changed, named)))
    assert ask(page, token, method="gae", correction="pos").status_code == 422


def test_one_trace_serves_every_method(monkeypatch, tmp_path):
    play = play_of(tmp_path, "model=detr")
    page = client_of(play)
    token = give(page, file_of(scene(3))).json()["token"]
    taken = recorded(monkeypatch, "observe")
    for method in play.offered.from_one_trace:
        assert ask(page, token, method=method).status_code == 200, method
    assert len(taken) == 1
    ask(page, token, method="gae", target="box")
    assert len(taken) == 2


def test_further_passes_are_made_once_and_added(page, token, own, monkeypatch):
    adapter, inputs, _, kept = own
    made = recorded(monkeypatch, "with_passes")
    expected = hetexp.explain(adapter, inputs, "transformer_attribution", [Logit(query=q) for q in kept])
    np.testing.assert_allclose(
        maps(page, token, method="transformer_attribution"),
        expected["transformer_attribution"]["image"],
        rtol=1e-5,
        atol=1e-9,
    )
    assert ask(page, token, method="gae_lrp").status_code == 200  # shares the pass
    assert len(made) == 1


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_mask_is_that_of_the_threshold(page, token, own, scale):
    adapter, inputs, _, kept = own
    answer = ask(page, token, "mask", row=1, scale=scale)
    width, height = shown_size((256, 256))
    maps = hetexp.explain(adapter, inputs, "ours_abs", [Logit(query=kept[1])])["ours_abs"]["image"]
    expected = segment(maps, scale, inputs["pixel_values"].shape[2:], (height, width))[0]
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    np.testing.assert_array_equal(shown, expected)
    assert 0 < expected.float().mean() < 1


def test_archive_holds_relevance_mask_and_how_they_were_made(page, token):
    content = ask(page, token, "archive", row=1, scale=0.5, target="other").content
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        answer = ask(page, token, target="other", row=1).json()
        np.testing.assert_array_equal(stored["relevance"], numbers(answer["relevance"]["image"])[0])
        assert stored["mask"].shape == (256, 256)
        assert stored["mask"].dtype == bool
    assert about["row"]["target"] == answer["rows"][1]["target"]
    assert about["otsu"] == answer["otsu"]
    assert about["scale"] == 0.5
    assert about["provenance"]["methods"]["ours_abs"]["correction"] == "abs"


def test_two_users_do_not_mix(page, own):
    pictures = [scene(175), scene(20)]
    first, second = (give(page, file_of(p)).json()["token"] for p in pictures)
    assert first != second
    asked = [(t, m, target) for m in ("gae", "odam") for target in ("predicted", "other") for t in range(2)]

    def answer(number: int, method: str, target: str) -> list[float]:
        got = maps(page, (first, second)[number], method=method, target=target)
        return np.sort(got.sum((1, 2))).tolist()

    with ThreadPoolExecutor(4) as users:
        answers = list(users.map(lambda a: answer(*a), asked))
    adapter = own[0]
    for (number, method, target), got in zip(asked, answers, strict=True):
        inputs = adapter.prepare([pictures[number]])
        expected = hetexp.explain(adapter, inputs, method, Logit() if target == "predicted" else Second())[method]
        np.testing.assert_allclose(got, expected["image"].sum((1, 2)).sort().values, rtol=1e-4)
    give(page, file_of(scene(4)), before=first)  # the first user takes another picture
    assert ask(page, first).status_code == 410
    assert ask(page, second).status_code == 200


def test_traces_make_room_and_are_taken_again(tmp_path):
    play = play_of(tmp_path, "model=detr")
    page = client_of(play)
    token = give(page, file_of(scene(3))).json()["token"]
    before = ask(page, token).json()
    play.kept.byte_limit = 1
    give(page, file_of(scene(4)))
    assert play.kept.held < 2**20
    gone = ask(page, token)
    assert gone.status_code == 410
    assert "choose it again" in gone.json()["error"]
    play.kept.byte_limit = 2**29
    again = give(page, file_of(scene(3))).json()["token"]
    assert ask(page, again).json()["relevance"] == before["relevance"]


def test_nothing_is_written_to_disk(page):
    written, watching = [], True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:  # an audit hook stays for good, hence the switch
        if watching and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])

    sys.addaudithook(watch)
    token = give(page, file_of(scene(4).resize((2000, 2000)))).json()["token"]
    for route in ("relevance", "mask", "archive"):
        assert ask(page, token, route).status_code == 200
    watching = False
    assert written == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no picture at all, though it is called photo.jpg", "is no picture"),
        (file_of(scene(3), "JPEG")[:2000], "damaged"),
        (b"%PDF-1.4 nothing", "is no picture"),
        (b"", "is no picture"),
        (file_of(Image.new("RGB", (8, 8))), "at least 16"),
        (file_of(Image.new("L", (2000, 20))), "8 times"),
        (file_of(Image.new("1", (9000, 9000))), "50 million"),
        (bytes(MOST_BYTES + 1), "more than 20 MB"),
    ],
)
def test_what_is_no_usable_picture_is_refused(page, data, said):
    answer = give(page, data)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_photographs_are_turned_upright_and_any_mode_is_read(page):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    turned = give(page, file_of(scene(3).resize((320, 200)), "JPEG", exif=exif)).json()
    assert turned["size"] == [200, 320]
    assert give(page, file_of(scene(3).convert("RGBA"))).status_code == 200
    assert give(page, file_of(scene(3).convert("CMYK"), "JPEG")).status_code == 200


def test_nothing_detected_is_said(page):
    token = give(page, file_of(Image.new("RGB", (64, 64)))).json()["token"]
    answer = ask(page, token)
    assert answer.status_code == 422
    assert "nothing was detected" in answer.json()["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "no_such"}, "is not offered"),
        ({"row": 3}, "predictions 0 to 2"),
        ({"target": "no_such"}, "target"),
        ({"target": "other", "other": 10**6}, "does not exist"),
        ({"question": "is there a zebra?"}, "asked no question"),
        ({"unknown": 1}, "unknown"),
        ({"correction": "no_such"}, "correction"),
    ],
)
def test_requests_that_do_not_fit_are_refused(page, token, more, said):
    answer = ask(page, token, **more)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_only_this_page_on_this_machine_is_answered(page, token):
    assert page.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    foreign = page.post("/api/pictures", content=b"x", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert page.post("/api/relevance", json={"method": "gae"}).status_code == 422  # names no picture
    assert ask(page, "guessed").status_code == 410


def test_scenes_are_pictures_to_begin_with(page):
    about = page.get("/api/about").json()
    assert [s["name"] for s in about["scenes"][:6]] == ["3", "4", "5", "15", "20", "175"]
    assert page.get("/api/scenes/0.jpg").headers["Content-Type"] == "image/jpeg"
    taken = page.post("/api/scenes/5").json()
    assert ask(page, taken["token"]).json()["detected"] == 3
    assert page.post("/api/scenes/99").status_code == 422


# -- questions -----------------------------------------------------------------------------------------------------


def test_question_with_words_regions_and_a_contrast(questions):
    number = [s["name"] for s in questions.get("/api/about").json()["scenes"]].index("000175")
    token = questions.post(f"/api/scenes/{number}").json()["token"]
    question = "is there a zebra?"
    answer = ask(questions, token, question=question).json()
    assert answer["rows"][0]["target"] == "logit(yes)"
    assert answer["words"][1:-1] == ["is", "there", "a", "zebra", "?"]
    assert answer["special"] == [True, *[False] * 5, True]
    assert answer["answers"][0]["answer"] == "yes"
    assert len(answer["regions"]) == numbers(answer["relevance"]["image"]).shape[1]
    assert answer["otsu"] is None
    no = next(a["index"] for a in answer["answers"] if a["answer"] == "no")
    assert answer["contrast"] == no
    held = ask(questions, token, question=question, target="difference", other=no, method="ours_full").json()
    assert held["rows"][0]["target"] == "logit(yes) − logit(no)"
    assert held["method"]["signed"]
    assert numbers(held["relevance"]["text"]).shape == (1, 7)


def test_a_picture_of_ones_own_gets_regions_and_an_archive(questions):
    token = give(questions, file_of(scene(20))).json()["token"]
    question = "does the picture show a horse?"
    answer = ask(questions, token, question=question).json()
    content = ask(questions, token, "archive", question=question).content
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["text"], numbers(answer["relevance"]["text"])[0])
        assert stored["regions"].shape == (stored["image"].shape[0], 4)
        assert json.loads(str(stored["about"]))["asked"]["question"] == question


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"question": " "}, "type a question"),
        ({"question": "is there a zebra?", "target": "box"}, "answers questions"),
        ({"question": "is there a zebra?", "method": "d_rise"}, "compares detections"),
    ],
)
def test_questions_that_do_not_fit_are_refused(questions, more, said):
    token = give(questions, file_of(scene(20))).json()["token"]
    answer = ask(questions, token, **more)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_masks_need_a_grid(questions):
    token = give(questions, file_of(scene(20))).json()["token"]
    answer = ask(questions, token, "mask", question="is there a zebra?")
    assert answer.status_code == 422
    assert "regions" in answer.json()["error"]


# -- the task ------------------------------------------------------------------------------------------------------


def test_the_port_is_of_this_machine_alone():
    with listen(0) as opened:
        host, port = opened.getsockname()
        assert host == "127.0.0.1"
        opened.listen()
        with pytest.raises(ConfigError, match=f"port={port} cannot be used"):
            listen(port)
    with pytest.raises(ConfigError, match="must lie in"):
        listen(70000)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["image=photo.jpg"], "leave it out"),
        (["target=ratio"], "not on the page"),
    ],
)
def test_what_the_page_cannot_use_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        run_serve(composed("task=serve", "port=0", *overrides))


def test_the_slider_is_of_otsus_threshold_alone(tmp_path):
    said = r"outlines masks at multiples of Otsu's threshold, not by threshold\.strategy=quantile\(share=0\.1\)"
    with pytest.raises(ConfigError, match=said):
        play_of(tmp_path, "model=detr", "threshold=quantile")


def test_without_the_extra_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"hetexp\[serve\]"):
        run_serve(composed("task=serve"))


def test_listed_methods_are_those_offered(tmp_path):
    play = play_of(tmp_path, "model=detr", "methods=[gae,'ours_pos(y_unit=10)']")
    assert list(play.offered.specs) == ["gae", "ours_pos(y_unit=10)"]
    page = client_of(play)
    token = give(page, file_of(scene(3))).json()["token"]
    assert ask(page, token, method="ours_pos(y_unit=10)").status_code == 200
    assert ask(page, token, method="odam").status_code == 422


def test_masks_of_maps_that_are_not_finite_are_empty(detector, token):
    found = detector.explain(token, Asked(), Choice("ours_abs"))
    assert detector.mask(found, 1.0, (32, 32)).any()
    relevance = found.explanation.relevance["ours_abs"]["image"].clone()
    relevance[0, 0, 0] = torch.nan
    broken = replace(found, explanation=replace(found.explanation, relevance={"ours_abs": {"image": relevance}}))
    assert not detector.mask(broken, 1.0, (32, 32)).any()
