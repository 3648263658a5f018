"""One experiment under several choices, comparisons of maps, and the metrics that are computed where they are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools import mask as rle
from run_helpers import Compose, run_to

from hetexp.errors import ConfigError
from hetexp.experiments.engine.choices import BASELINE, evaluate_choices, under
from hetexp.experiments.engine.methods import resolve_methods
from hetexp.experiments.tasks import evaluate
from hetexp.experiments.vqa.metrics import Outcome
from hetexp.experiments.vqa.semantics import logic, semantics


def test_methods_may_be_named_with_changes(composed: Compose) -> None:
    named, plain = resolve_methods(composed('methods=["ours_pos(y_unit=10,heads=first_half)",ours_pos]'))
    assert named.name == "ours_pos(y_unit=10,heads=first_half)"
    assert (named.parameters["y_unit"], named.parameters["heads"]) == (10, "first_half")
    assert named.settings != plain.settings
    (same,) = resolve_methods(composed('methods=["ours_pos(correction=abs)"]'))
    assert same.name == "ours_abs"
    with pytest.raises(ConfigError, match="unknown method 'nope'"):
        resolve_methods(composed('methods=["nope(y_unit=10)"]'))
    with pytest.raises(ConfigError, match="method 'odam' has no parameter 'y_unit'"):
        resolve_methods(composed('methods=["odam(y_unit=10)"]'))


def test_what_a_choice_changes(composed: Compose) -> None:
    cfg = composed("methods=[gae,odam,ours_pos]")
    cfg.experiment = "e"
    changed = under(cfg, "ten", {"parameters": {"y_unit": 10, "zero_rows": "identity"}, "threshold": {"scale": 0.5}})
    assert list(changed.methods) == ["gae(zero_rows=identity,y_unit=10)", "odam", "ours_pos(y_unit=10)"]
    assert (changed.threshold.scale, changed.experiment) == (0.5, "e/ten")
    assert list(cfg.methods) == ["gae", "odam", "ours_pos"], "the baseline stays"
    with pytest.raises(ConfigError, match="choice 'x' changes feat, which no method has"):
        under(cfg, "x", {"parameters": {"feat": 1}})
    with pytest.raises(ConfigError, match="choice 'x' cannot be made"):
        under(cfg, "x", {"threshold": {"scal": 1}})


def test_choices_are_evaluated_one_by_one(toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("methods=[gae,ours_pos]", "metrics=[segm]", "bootstrap=0")
    cfg.experiment = "e"
    cfg.choices = {
        "same": {"parameters": {"encoder_layers": 99}},
        "ten": {"parameters": {"y_unit": 10}},
        "ties": {"threshold": {"tie": "foreground"}},
        "second": {"target": {"name": "second"}},
        "fewer": {"model": {"score_threshold": 0.3}},
    }
    evaluate_choices(cfg, tmp_path / "run", evaluate)
    whole = pd.read_csv(tmp_path / "run" / "results.csv", dtype={"folder": str})
    assert list(whole["choice"].unique()) == [BASELINE, "same", "ten", "ties", "second", "fewer"]
    assert set(whole["experiment"]) == {"e"}
    names = whole["choice"].unique()
    of = {name: pd.read_csv(tmp_path / "run" / f"{n:02d}" / "results.csv") for n, name in enumerate(names)}
    assert set(of["ten"]["experiment"]) == {"e/ten"}

    def numbers(name: str) -> list[float]:
        return of[name].query("panel == 'segm'")["value"].dropna().tolist()

    def alike(name: str, metric: str) -> list[float]:
        return of[name].query(f"panel == 'similarity/baseline' and metric == 'image_{metric}'")["value"].tolist()

    assert numbers("same") == numbers(BASELINE)
    assert alike("same", "rank_correlation") == pytest.approx([100, 100])
    assert alike("same", "relative_difference") == [0, 0]
    assert min(alike("ten", "relative_difference")) > 0
    assert alike("ties", "relative_difference") == [0, 0], "the maps are the same, the masks are not"
    assert max(alike("second", "rank_correlation")) < 100
    assert not alike(BASELINE, "rank_correlation")


def test_choices_need_a_list_of_methods(toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("method=gae")
    cfg.choices = {"ten": {"parameters": {"y_unit": 10}}}
    with pytest.raises(ConfigError, match=r"choices need methods=\[...\]"):
        evaluate_choices(cfg, tmp_path / "run", evaluate)


def test_comparisons_within_a_run(toy_config: Compose, toy_vqa_config: Compose, tmp_path: Path) -> None:
    methods = 'methods=[ours_pos,ours_abs,"gae(normalise=False)"]'
    pairs = 'compare=[["gae(normalise=False)",ours_pos],[ours_abs,ours_pos]]'
    found = run_to(toy_config(methods, pairs, "metrics=[masks]", "threshold.scale=[1.0,0.3]"), tmp_path / "a")
    of = found[found["panel"] == "similarity/ours_pos"].set_index(["method", "metric"])["value"]
    assert of["ours_abs", "image_rank_correlation"] < 100
    masks = found[found["panel"] == "masks"].set_index(["method", "metric", "threshold"])["value"].sort_index()
    kept = masks["ours_pos", "kept_relevance"]
    assert 0 < kept[1.0] < kept[0.3] <= 100
    values = pd.read_parquet(tmp_path / "a" / "items" / "values.parquet")
    assert set(values.loc[values["panel"] == "masks", "threshold"]) == {1.0, 0.3}
    asked = run_to(toy_vqa_config(methods, pairs, "metrics=[localisation]", "perturb=false"), tmp_path / "b")
    assert {"image_rank_correlation", "text_relative_difference"} <= set(asked["metric"])
    with pytest.raises(ConfigError, match=r"compare holds \['gae', 'nope'\]: name two methods of the run, gae"):
        run_to(toy_config("methods=[gae]", "compare=[[gae,nope]]"), tmp_path / "c")


def test_unperturbed_runs_have_a_store_of_their_own(toy_vqa_config: Compose, tmp_path: Path) -> None:
    run_to(toy_vqa_config("methods=[gae]", "metrics=[localisation]", "perturb=false"), tmp_path / "a")
    found = run_to(toy_vqa_config("methods=[gae]", "metrics=[perturbation,retention]"), tmp_path / "b")
    area = found[found["metric"] == "AUC"].set_index("panel")["value"]
    assert area["retention/image_negative"] > 0
    with pytest.raises(ConfigError, match="perturb=false computes no answers"):
        run_to(toy_vqa_config("methods=[gae]", "perturb=false", "metrics=[retention]"), tmp_path / "c")


def test_insertion_deletion_and_randomisation(toy_config: Compose, tmp_path: Path) -> None:
    cfg = toy_config("methods=[ours_pos,random]", "metrics=[deletion,randomisation]", "limit=2", "bootstrap=20")
    found = run_to(cfg, tmp_path / "a")
    areas = found[found["panel"] == "deletion"]
    assert set(areas["metric"]) == {f"{k}_{w}" for k in ("deletion", "insertion") for w in ("class", "box")}
    assert areas["n"].nunique() == 1, "the same detections for all methods"
    boxes = areas[areas["metric"].str.endswith("_box")]
    assert boxes["value"].between(0, 100).all()
    cascade = found[found["panel"].str.startswith("randomisation/")]
    stages = list(dict.fromkeys(cascade["panel"]))
    assert len(stages) > 3
    assert stages[0].startswith("randomisation/01 ")
    assert any("decoder.layers" in s for s in stages)
    places = [next(i for i, s in enumerate(stages) if part in s) for part in ("decoder.layers.1", "encoder.layers.0")]
    assert places == sorted(places), "the last stage first"
    changed = cascade[cascade["method"] == "ours_pos"]["value"]
    assert changed.iloc[-1] < 99
    assert cascade[cascade["method"] == "random"]["value"].abs().max() <= 100


def outcome(tmp_path: Path, kind: str, sentence: str, answer: int, image: list[float], text: list[float]) -> Outcome:
    """One question about a zebra (left half) and a dog (right half) of a 4 x 8 image with a region on each."""
    annotations = []
    for number, (category, left) in enumerate([(1, 0), (2, 4)], start=1):
        mask = np.zeros((4, 8), np.uint8, order="F")
        mask[:, left : left + 3] = 1
        code = rle.encode(mask)
        annotations.append(
            {
                "id": number, "image_id": 1, "category_id": category, "iscrowd": 0, "area": 12,
                "bbox": [left, 0, 3, 4], "segmentation": {"size": [4, 8], "counts": code["counts"].decode()},
            }
        )  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 4}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    tokens = ["[CLS]", *sentence.split(), "[SEP]"]
    questions = pd.DataFrame(
        {
            "question_id": ["0"], "img_id": ["a"], "question_type": [kind], "tokens": [json.dumps(tokens)],
            "predicted": [answer],
        }
    )  # fmt: skip
    boxes = torch.tensor([[0.0, 0.0, 0.375, 1.0], [0.5, 0.0, 0.875, 1.0], [0.375, 0.0, 0.5, 1.0]])
    data = {"annotations": "annotations.json", "root": str(tmp_path), "images": "images"}
    return Outcome(
        questions,
        np.zeros((1, 4, 9), np.int64),
        [torch.tensor([9.0, *text, 9.0])],
        [torch.tensor(image)],
        [boxes],
        lambda rows, answers: np.zeros(answers.shape),
        data,
        ["yes", "no"],
    )


@pytest.mark.parametrize(
    ("kind", "sentence", "answer", "image", "sign", "named"),
    [
        ("exist", "is there a zebra", 0, [2.0, 1.0, 5.0], 1.0, 1.0),  # the zebra speaks for yes, more than the dog
        ("exist", "is there a zebra", 0, [-2.0, 1.0, 5.0], 0.0, 0.0),
        ("negation", "is there no zebra", 1, [2.0, 1.0, 5.0], 1.0, 1.0),  # and for no, where it is asked away
        ("negation", "is there no zebra", 0, [-2.0, 1.0, 5.0], 1.0, 1.0),  # a wrong yes it speaks against
        ("and", "is there a zebra and a cow", 1, [-2.0, 1.0, 0.0], 1.0, 1.0),  # no, for want of a cow alone
        ("or", "are there zebras or cows", 0, [0.0, 0.0, 3.0], 0.5, 0.5),
    ],
)
def test_logic_by_hand(
    tmp_path: Path, kind: str, sentence: str, answer: int, image: list[float], sign: float, named: float
) -> None:
    words = [0.0] * len(sentence.split())
    made = outcome(tmp_path, kind, sentence, answer, image, words)
    found = {(m.panel, m.metric): m.values.tolist() for m in logic(made)}
    assert found["logic", "sign_accuracy"] == found[f"logic/{kind}", "sign_accuracy"] == [sign]
    assert found["logic", "named_auroc"] == [named]


def test_other_questions_have_no_logic(tmp_path: Path) -> None:
    assert not list(logic(outcome(tmp_path, "count", "how many zebras", 0, [1.0, 0.0, 0.0], [0.0] * 3)))
    assert not list(logic(outcome(tmp_path, "exist", "is there a cow", 0, [1.0, 0.0, 0.0], [0.0] * 4)))


def test_semantics_by_hand(tmp_path: Path) -> None:
    made = outcome(tmp_path, "exist", "is there a zebra", 0, [3.0, 1.0, 2.0], [0.1, 0.4, 0.2, 0.3])
    found = {m.metric: m.values.tolist() for m in semantics(made)}
    assert found["noun_auroc"] == [pytest.approx(2 / 3)]  # the zebra stands above two of three words
    assert found["object_auroc"] == [pytest.approx(0.5)]  # regions of objects first and last, the background between
