from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from report_helpers import BASE, detection_samples, perturbation_rows, write_items, write_run, write_samples

from hetexp.attribution.registry import METHODS
from hetexp.errors import DataError
from hetexp.reporting.figures import curves, detections, maps, questions, style
from hetexp.reporting.figures.explanation import draw_explanation
from hetexp.reporting.names import PAPER_METHODS
from hetexp.reporting.runs import newest_run, read_run
from hetexp.reporting.samples import StoredExplanation, read_samples


def texts(figure: plt.Figure) -> set[str]:
    found = {t.get_text() for t in figure.texts}
    for ax in figure.axes:
        found |= {ax.get_title(), ax.get_ylabel(), *(t.get_text() for t in ax.texts)}
    plt.close(figure)
    return found


def test_perturbation_has_four_panels_with_areas(outputs: Path, tmp_path: Path) -> None:
    run = newest_run(outputs, "figure6")
    figure = curves.draw_perturbation(run)
    *panels, legend = figure.axes
    assert [ax.get_title(loc="left")[:3] for ax in panels] == ["(a)", "(b)", "(c)", "(d)"]
    assert all(ax.get_legend() is None for ax in panels), "one legend for all"
    assert len({ax.get_ylim() for ax in panels}) == 1
    words = [t.get_text() for t in legend.texts]
    assert words[:5] == ["AUC [95 %]", "(a)", "(b)", "(c)", "(d)"]
    assert words[5:10] == ["GAE", *["60.0 [59.0, 61.0]"] * 4]
    assert words[-5:-3] == ["Random (control)", "55.0 [54.0, 56.0]"]
    line = figure.axes[0].lines[0]
    assert np.asarray(line.get_xdata())[0] == 0
    assert np.asarray(line.get_ydata())[-1] == pytest.approx(60)
    plt.close(figure)
    paths = curves.write_perturbation(run, tmp_path)
    assert [p.name for p in paths] == ["figure6.png", "figure6.pdf", "figure6.csv"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert len(paths[2].read_text().splitlines()) == 1 + 6 * 4 * 9


def test_the_legend_says_where_areas_lie_between_random_and_the_oracle(tmp_path: Path) -> None:
    rows = perturbation_rows({"gae": 60, "random": 55, "oracle": 75})
    run = read_run(write_items(write_run(tmp_path / "run", rows)))
    cells = curves.legend_cells(run, ["gae", "random"])
    assert cells["gae"][0] == "60.0 [59.0, 61.0] | 25"
    assert cells["random"][0] == "55.0 [54.0, 56.0] | 0"
    assert cells["gae"][1] == "60.0 [59.0, 61.0]", "an oracle that is no better than random is no end"
    figure = curves.draw_perturbation(run)
    assert "AUC [95 %] | % of the oracle's" in texts(figure)


def test_a_crowded_end_is_enlarged_where_there_is_room(tmp_path: Path) -> None:
    """Curves that stay high leave room below them; those that fall at once do not."""
    rows = perturbation_rows({"gae": 50.0})
    for row in rows:
        if row["metric"].startswith("accuracy@"):
            share = float(row["metric"].partition("@")[2])
            drop = share > 0.9 if row["panel"].endswith("negative") else share > 0
            row |= {"value": 30.0 if drop else 95.0, "ci_low": None, "ci_high": None}
    figure = curves.draw_perturbation(read_run(write_run(tmp_path / "run", rows)))
    insets = [len(ax.child_axes) for ax in figure.axes[:4]]
    assert insets == [1, 0, 1, 0]
    (inset,) = figure.axes[0].child_axes
    assert inset.get_xlim() == curves.END
    top = figure.axes[0].transData.inverted().transform(inset.transAxes.transform((0, 1)))[1]
    assert top < 95, "no curve is covered"
    plt.close(figure)


def test_perturbation_without_curves(tmp_path: Path) -> None:
    rows = [r for r in perturbation_rows({"gae": 50.0}) if "@" not in r["metric"]]
    with pytest.raises(DataError, match="no perturbation curves"):
        curves.draw_perturbation(read_run(write_run(tmp_path / "run", rows)))


def test_sweep_without_thresholds(outputs: Path) -> None:
    with pytest.raises(DataError, match=r"holds no AP at any threshold: run .*threshold_sweep"):
        curves.draw_sweep(newest_run(outputs, "figure6"))


def test_sweep_finds_where_rankings_cross(outputs: Path) -> None:
    table = curves.sweep_frame(newest_run(outputs, "threshold_sweep"))
    assert list(table.columns) == list(PAPER_METHODS)
    found = curves.crossings(table.loc[[0.3, 1.0]])
    assert len(found) == 10  # every pair of five methods
    assert all(at == pytest.approx(0.6) for at, _, _ in found)
    assert {(behind, ahead) for _, behind, ahead in found} >= {("gae", "odam"), ("ours_abs", "ours_noised")}
    level = curves.crossings(table)  # all are level at 0.6, a scale of the sweep
    assert {at for at, _, _ in level} == {0.6}
    assert {pair[1:] for pair in level} == {pair[1:] for pair in found}


def test_the_sweep_names_crossings_and_marks_the_papers_scales(outputs: Path) -> None:
    run = newest_run(outputs, "threshold_sweep")
    figure = curves.draw_sweep(run)
    large, near, note = figure.axes
    assert {t.get_text() for t in large.texts} == {"Table 1 (× 1)", "Table 2 (× 0.3)"}
    drawn = [np.asarray(line.get_xdata()) for line in large.lines]
    assert sorted(x[0] for x in drawn if len(x) == 2) == [0.3, 1.0]
    plt.close(figure)
    # two curves by hand: 20 - 10 x and 10 + 10 x meet at 0.5
    rows = [
        {**BASE, "experiment": "threshold_sweep", "method": m, "threshold": x, "panel": "segm", "metric": "AP"}
        | {"value": a + b * x, "ci_low": a + b * x - 1, "ci_high": a + b * x + 2}
        for m, a, b in (("gae", 20, -10), ("ours_abs", 10, 10))
        for x in (0.3, 0.6, 1.0)
    ]
    run = read_run(write_run(outputs / "crossing", rows))
    figure = curves.draw_sweep(run)
    large, near, note = figure.axes
    assert [t.get_text() for t in note.texts] == ["1: at 0.50 Ours (abs) passes GAE"]
    assert "1" in {t.get_text() for t in near.texts}
    bands = [np.asarray(band.get_paths()[0].vertices)[:, 1] for band in large.collections]
    assert [(round(b.min(), 6), round(b.max(), 6)) for b in bands] == [(9, 19), (12, 22)]
    assert not near.collections, "bands only where they can be told apart"
    plt.close(figure)


def test_the_sweep_without_crossings_is_one_panel(outputs: Path) -> None:
    rows = [
        {**BASE, "experiment": "threshold_sweep", "method": m, "threshold": x, "panel": "segm", "metric": "AP"}
        | {"value": value}
        for m, value in (("gae", 20), ("ours_abs", 10))
        for x in (0.5, 0.6)
    ]
    figure = curves.draw_sweep(read_run(write_run(outputs / "level", rows)))
    assert len(figure.axes) == 2
    assert not figure.axes[0].texts, "neither table's scale is in the sweep"
    plt.close(figure)


def test_detections(outputs: Path) -> None:
    write_samples(outputs)
    samples = read_samples(outputs, "detection").samples
    columns = detections.pick_columns(samples, most=3)
    assert [(c.sample.info["item"], c.row) for c in columns] == [(1, 0), (1, 1), (2, 0)]
    found = texts(detections.draw_relevance(samples))
    assert {"Input", "GAE", "ODAM", "Ours (abs)", "Ours (pos)", "Ours (noised)", "zebra 0.95"} <= found
    figure = detections.draw_masks(samples, 0.3)
    assert len(figure.axes) == 4 * 6
    plt.close(figure)
    with pytest.raises(DataError, match=r"threshold.scale=0\.7"):
        detections.draw_masks(samples, 0.7)
    plt.close("all")


def test_questions(outputs: Path) -> None:
    write_samples(outputs)
    found = read_samples(outputs, "vqa")
    shown = texts(questions.draw_methods(found.part("questions")))
    assert {"zebra", "[SEP]", "GAE", "Ours (noised)", "is there a zebra?", "→ yes"} <= shown
    assert "[CLS]" not in shown
    logic = texts(questions.draw_logic(found.part("logic")))
    assert {"(a) single logit", "(b) difference", "y = logit(yes)", "y = logit(yes) − logit(no)"} <= logic
    assert "Ours (abs), homologous" in texts(questions.draw_semantics(found.part("questions")))
    with pytest.raises(DataError, match="no sample has a question"):
        questions.draw_methods([])


@pytest.mark.parametrize(("kind", "words"), [("detection", {"zebra 0.95", "GAE"}), ("vqa", {"Ours (full)", "zebra"})])
def test_explanations(outputs: Path, kind: str, words: set[str]) -> None:
    write_samples(outputs)
    assert words <= texts(draw_explanation(read_samples(outputs, kind).samples[0]))


def test_rows_are_the_methods_shown(outputs: Path) -> None:
    methods = ("gae", "rollout", "my_method", "ours_abs(noise_link=row)")
    write_samples(outputs, methods, shown=("my_method", "ours_abs(noise_link=row)", "gae"))
    found = read_samples(outputs, "detection")
    assert found.shown == ["gae", "ours_abs(noise_link=row)", "my_method"]
    assert found.absent == ["odam", "ours_abs", "ours_pos", "ours_noised"]
    drawn = texts(detections.draw_relevance(found.samples, found.shown))
    assert {"GAE", "Ours (abs),\nnoise_link=row", "my_method"} <= drawn
    assert "Rollout" not in drawn
    vqa = read_samples(outputs, "vqa")
    assert {"GAE", "my_method"} <= texts(questions.draw_methods(vqa.part("questions"), vqa.shown))


def test_without_being_told_rows_are_the_papers_as_far_as_there(outputs: Path) -> None:
    write_samples(outputs, ("gae", "ours_abs", "rollout"))
    found = read_samples(outputs, "detection")
    assert found.shown == ["gae", "ours_abs"]
    figure = detections.draw_masks(found.samples, 1.0, found.shown)
    assert len(figure.axes) == 4 * 3
    plt.close(figure)
    with pytest.raises(DataError, match=r"no sample has a method of the figure.*task=samples"):
        detections.draw_relevance(found.samples, [])


def test_relevance_that_is_not_finite_is_drawn_as_such() -> None:
    samples = list(detection_samples().values())
    samples[0].relevance["odam"][0, 0, 0] = np.nan
    assert "not finite" in texts(detections.draw_relevance(samples))
    masks = dict(samples[0].masks)
    del masks["odam@1"]
    hurt = StoredExplanation(samples[0].image, samples[0].info, samples[0].relevance, masks)
    assert "not finite" in texts(detections.draw_masks([hurt], 1.0))


def test_explanation_without_image_masks_or_levels() -> None:
    rng = np.random.default_rng(0)
    info = {
        "kind": "detection",
        "methods": ["gae", "ours_full"],
        "detections": [{"label": label, "score": 0.97, "box": [0.1, 0.2, 0.5, 0.9]} for label in ("person", "zebra")],
        "targets": ["logit(zebra)", "logit(zebra)"],
    }
    found_maps = {m: rng.random((2, 4, 6), dtype=np.float32) for m in ("gae", "ours_full")}
    explanation = StoredExplanation(None, info, found_maps)
    figure = draw_explanation(explanation)
    assert len(figure.axes) == 4, "no column for an input that is unknown"
    found = texts(figure)
    assert {"GAE", "Ours (full)", "zebra 0.97"} <= found
    assert {label.replace("\n", " ") for label in found} >= {"person 0.97, y = logit(zebra)"}


def test_question_without_image_and_with_two_targets() -> None:
    rng = np.random.default_rng(0)
    relevance = {
        f"{key}/{stream}": rng.random(n, dtype=np.float32)
        for key in ("gae", "gae:difference", "rollout")
        for stream, n in (("text", 3), ("image", 2))
    }
    info = {"kind": "vqa", "methods": ["rollout", "gae"], "tokens": ["[CLS]", "zebra", "[SEP]"]}
    explanation = StoredExplanation(None, info | {"boxes": [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]}, relevance)
    assert {"GAE", "Rollout", "GAE, difference", "zebra"} <= texts(draw_explanation(explanation))
    painted = maps.paint_regions(explanation.regions, relevance["gae/image"], (320, 320))
    assert np.count_nonzero(painted) == 2 * 160 * 160
    with pytest.raises(DataError, match="holds no relevance of odam"):
        draw_explanation(StoredExplanation(None, {**info, "methods": ["odam"]}, relevance))


def test_a_question_of_which_little_is_known() -> None:
    """No words, no boxes: patches on a grid are drawn as a map, tokens by their numbers."""
    rng = np.random.default_rng(0)
    info: dict[str, object] = {"kind": "vqa", "methods": ["gae"], "question": None, "answers": None, "tokens": None}
    relevance = {"gae/text": rng.random(4, dtype=np.float32), "gae/image": rng.random((2, 3), dtype=np.float32)}
    explanation = StoredExplanation(None, info | {"boxes": []}, relevance)
    assert {"GAE", "1", "3"} <= texts(draw_explanation(explanation))
    assert explanation.regions.shape == (6, 4)
    assert explanation.regions[4].tolist() == [32, 32, 64, 64]
    flat = StoredExplanation(None, info, relevance | {"gae/image": rng.random(6, dtype=np.float32)})
    with pytest.raises(DataError, match="the explanation has no boxes of its regions"):
        draw_explanation(flat)
    plt.close("all")


def test_every_method_has_a_look_of_its_own() -> None:
    own = ["my_method", "ours_abs(noise_link=row)", "random(seed=1)", *(f"method{i}" for i in range(40))]
    styles = style.method_styles([*METHODS, *own])
    assert len({(s["color"], s["marker"]) for s in styles.values()}) == len(METHODS) + len(own)
    assert styles["gae"] == {"color": "#E69F00", "marker": "s"}
    assert [m for m, s in styles.items() if "linestyle" in s] == ["random", "random(seed=1)"]
    assert style.method_styles(["my_method", "gae"])["my_method"] == style.method_styles(["my_method"])["my_method"]
    assert not {s["color"] for m, s in styles.items() if m in own} & {r.colour for r in METHODS.values()}


def test_files_are_equal_for_equal_content(tmp_path: Path) -> None:
    def draw() -> plt.Figure:
        figure, ax = plt.subplots(figsize=(1, 1))
        ax.plot([0, 1])
        return figure

    one, two = style.save(draw(), tmp_path / "one"), style.save(draw(), tmp_path / "two")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    with Image.open(one[0]) as image:
        assert min(image.size) > 150  # 220 dots per inch


def test_a_figure_is_cut_to_what_is_drawn(tmp_path: Path) -> None:
    """As matplotlib cuts it, though it is laid out once for all kinds of files; text reaches beyond the figure."""
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    ax.set_title("a title far too long to fit into a figure of two inches", fontsize=12)
    with style.styled():
        figure.savefig(tmp_path / "tight.png", bbox_inches="tight", pad_inches=0.02)
    dpi = figure.dpi
    (written,) = style.save(figure, tmp_path / "cut", ("png",))
    assert figure.dpi == dpi
    with Image.open(tmp_path / "tight.png") as tight, Image.open(written) as cut:
        assert cut.width > 2 * 220
        assert np.array_equal(np.asarray(tight), np.asarray(cut))


def test_colours() -> None:
    image = np.full((2, 2, 3), 128, np.uint8)
    heat = style.overlay(image, np.array([[0.0, 1.0], [0.0, 1.0]]), 0, 1)
    assert heat[0, 1].sum() > heat[0, 0].sum()
    signed = style.signed_overlay(image, np.array([[1.0, -1.0], [0.0, 0.0]]), 1.0)
    assert signed[0, 0, 0] > signed[0, 0, 2]  # red raises
    assert signed[0, 1, 2] > signed[0, 1, 0]  # blue lowers
    assert np.ptp(signed[1, 0]) < 0.02  # grey at 0
    words = maps.token_colours(np.array([2.0, 3.0, 2.5]), None)
    assert words[0] == pytest.approx((0, 0, 0), abs=0.02)
    assert sum(words[1]) > sum(words[2]) > sum(words[0])
    red, blue = maps.token_colours(np.array([1.0, -1.0]), 1.0)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert maps.readable((0.0, 0.0, 0.0)) == "white"
    assert maps.readable((1.0, 1.0, 0.6)) == "black"


def test_regions_show_the_strongest() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 2, 2], [2, 2, 4, 4]], float)
    painted = maps.paint_regions(boxes, np.array([0.5, -0.9, 0.1]), (4, 4))
    assert painted[0, 0] == -0.9
    assert painted[3, 3] == 0.5
    assert maps.paint_regions(boxes[1:2], np.array([1.0]), (4, 4)).sum() == 4


def test_words_wrap() -> None:
    lines = maps.token_rows(["one", "two", "three"], width=40, size=6)
    assert [i for line in lines for i, _, _ in line] == [0, 1, 2]
    assert len(lines) == 2
    assert all(line[-1][1] + line[-1][2] <= 40 for line in lines)
    assert len(maps.token_rows(["incomprehensibilities"], width=10, size=6)) == 1


def test_no_word_is_left_alone_where_lines_can_be_alike() -> None:
    words = ["aaaa"] * 7
    wide = maps.token_rows(words[:6], width=1e6, size=6)
    width = wide[0][-1][1] + wide[0][-1][2]
    lines = maps.token_rows(words, width=width, size=6)  # six fit into the first line
    assert [len(line) for line in lines] == [4, 3]
    assert [i for line in lines for i, _, _ in line] == list(range(7))


def test_regions_that_stand_out() -> None:
    def out(*sizes: float) -> list[int]:
        return maps.standing_out(np.array(sizes))

    assert out(0.1, 0.9, 0.2, -0.8) == [1, 3], "before the widest gap, by size"
    assert out(1.0, 0.4, 0.3, 0.2) == [0]
    assert out(1.0, 0.9, 0.8, 0.7, 0.6) == [], "no gap of a quarter of the largest"
    assert out(0.9, 0.88, 0.86, 0.3) == [0, 1, 2]
    assert out(0.0, 0.0) == []
    assert out(0.5) == [0], "the only one"


def test_a_figure_of_many_methods_fits_a_page(outputs: Path) -> None:
    write_samples(outputs)
    samples = read_samples(outputs, "vqa").part("questions")
    figure = questions.draw_methods(samples * 2)
    assert figure.get_size_inches()[1] <= style.PAGE_HEIGHT + 0.01
    words = [float(t.get_fontsize()) for ax in figure.axes for t in ax.texts if t.get_text() == "zebra"]
    assert words
    assert min(words) >= 7
    plt.close(figure)
