"""Runs over questions: perturbation equals token-by-token removal, caching, shards, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from run_helpers import Compose, run_to, same_bytes

from hetexp.errors import CheckpointError, ConfigError, DataError
from hetexp.evaluation.perturbation import FRACTIONS, PANELS, n_kept
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.engine.shards import merged_session
from hetexp.experiments.tasks import evaluate
from hetexp.experiments.vqa.attribution import attribute_all
from hetexp.experiments.vqa.localise import MEASURES
from hetexp.experiments.vqa.measure import read_outcome
from hetexp.models.lxmert import LxmertAdapter

THREE = "methods=[gae,ours_pos,random]"


def test_table_has_curves_areas_and_localisation(toy_vqa_config: Compose, tmp_path: Path) -> None:
    frame = run_to(toy_vqa_config(THREE), tmp_path / "run")
    own = frame[frame["method"].isna()]
    assert own["metric"].tolist() == ["accuracy"]
    for panel in PANELS:
        part = frame[(frame["panel"] == panel) & (frame["method"] == "gae")].set_index("metric")["value"]
        curve = [part[f"accuracy@{f:g}"] for f in FRACTIONS]
        assert part["AUC"] == pytest.approx(np.trapezoid(curve, FRACTIONS))
        assert curve[0] == pytest.approx(own["value"].item())
    found = frame[frame["panel"] == "localisation"]
    assert set(found["metric"]) == set(MEASURES)
    assert found.groupby("metric")["n"].nunique().eq(1).all(), "every method is measured on the same questions"
    intervals = frame.dropna(subset=["ci_low"])
    assert (intervals["ci_low"] <= intervals["value"] + 1e-9).all()
    assert (intervals["value"] <= intervals["ci_high"] + 1e-9).all()


def test_a_run_leaves_the_values_behind_its_means(toy_vqa_config: Compose, tmp_path: Path) -> None:
    frame = run_to(toy_vqa_config(THREE, "controls=[oracle]"), tmp_path / "run")
    values = pd.read_parquet(tmp_path / "run" / "items" / "values.parquet")
    means = 100 * values.groupby(["method", "panel", "metric"], observed=True)["value"].mean()
    frame = frame.fillna({"method": "", "panel": ""}).dropna(subset="value")
    assert len(means) == len(frame)
    for row in frame.itertuples():
        assert means[row.method, row.panel, row.metric] == pytest.approx(row.value)
    oracle = frame[frame["method"] == "oracle"].set_index(["panel", "metric"])["value"]
    assert oracle["localisation", "word_auroc"] == 100
    assert {panel.partition("/")[0] for panel, _ in oracle.index} == {"localisation", *PANELS}


def test_unknown_controls_list_the_known_ones(toy_vqa_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown control 'edges'\. Available for question answering: oracle"):
        run_to(toy_vqa_config(THREE, "controls=[edges]"), tmp_path / "run")


def test_batched_perturbation_equals_removal_one_at_a_time(toy_vqa_config: Compose, tmp_path: Path) -> None:
    """Every answer again, alone, by the protocol's own words: top-k order, tokens re-embedded, nothing padded."""
    session = open_session(toy_vqa_config(THREE), tmp_path / "run")
    attribute_all(session)
    model = session.adapter.model
    for spec in session.methods:
        outcome, _ = read_outcome(session, spec)
        for row, question in enumerate(session.data.questions):
            found = session.data.regions.regions(question.img_id)
            features, boxes = (torch.from_numpy(x) for x in (found.features, found.boxes))
            ids = session.adapter.encode(question.sent, features, boxes).input_ids.tolist()
            for p, (modality, positive) in enumerate(PANELS.values()):
                for f, fraction in enumerate(FRACTIONS):
                    text, regions = list(range(len(ids))), list(range(len(found.features)))
                    relevance = outcome.image[row] if modality == "image" else outcome.text[row][1:-1]
                    order = torch.topk(-relevance if positive else relevance, n_kept(len(relevance), fraction)).indices
                    if modality == "image":
                        regions = order.tolist()
                    else:
                        text = [0, *sorted(i + 1 for i in order.tolist()), len(ids) - 1]
                    batch = {
                        "input_ids": torch.tensor([[ids[i] for i in text]]),
                        "visual_feats": features[regions][None],
                        "visual_pos": boxes[regions][None],
                    }
                    if regions:
                        answer = int(model(**batch).question_answering_score.argmax())
                    else:  # the class fails on no region; the adapter's own way is tested against golden arrays
                        answer = int(session.adapter.predict(batch).argmax())
                    assert outcome.answers[row, p, f] == answer


def test_second_run_never_touches_the_model(
    toy_vqa_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to(toy_vqa_config(THREE), tmp_path / "a")
    monkeypatch.setattr(LxmertAdapter, "trace", lambda *a, **k: pytest.fail("the model ran again"))
    run_to(toy_vqa_config(THREE), tmp_path / "b")
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_methods_alone_and_together_give_equal_numbers(toy_vqa_config: Compose, tmp_path: Path) -> None:
    together = run_to(toy_vqa_config(THREE), tmp_path / "a")
    alone = run_to(toy_vqa_config("method=gae", f"paths.store={tmp_path / 'other'}"), tmp_path / "b")
    picked = together[together["method"].isna() | (together["method"] == "gae")]
    pd.testing.assert_frame_equal(picked.reset_index(drop=True), alone, check_dtype=False)


def test_shards_merge_to_the_plain_run(toy_vqa_config: Compose, tmp_path: Path) -> None:
    run_to(toy_vqa_config(THREE), tmp_path / "plain")
    for i in range(2):
        run_to(toy_vqa_config(THREE, f"shard={i}/2"), tmp_path / "shards" / str(i))
    evaluate(merged_session(toy_vqa_config("task=merge", f"merge.from={tmp_path / 'shards'}"), tmp_path / "merged"))
    same_bytes(tmp_path / "plain", tmp_path / "merged")


def test_unusable_questions_are_counted_skips(toy_vqa_config: Compose, toy_vqa: Path, tmp_path: Path) -> None:
    items = json.loads((toy_vqa / "questions.json").read_text())
    items[0]["img_id"] = "unknown"
    items[1]["sent"] = "zebra " * 40
    items[2] |= {"sent": "\u200b", "words": []}  # nothing is left of it but CLS and SEP
    (toy_vqa / "questions.json").write_text(json.dumps(items))
    run_to(toy_vqa_config("method=gae"), tmp_path / "run")
    counts = json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["gae"]
    assert counts == {"questions": 6, "skipped_questions": 3, "not_finite": 0}


def test_answers_that_do_not_fit_the_checkpoint_are_refused(
    toy_vqa_config: Compose, toy_vqa: Path, tmp_path: Path
) -> None:
    (toy_vqa / "answers.json").write_text(json.dumps(["yes", "no"]))
    with pytest.raises(CheckpointError, match="holds 2 answers, the checkpoint has 15"):
        run_to(toy_vqa_config("method=gae"), tmp_path / "run")


def test_official_score_needs_annotators(toy_vqa_config: Compose, toy_vqa: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ten answers"):
        run_to(toy_vqa_config("method=gae", "data.score=official"), tmp_path / "run")
    items = json.loads((toy_vqa / "questions.json").read_text())
    for item in items:
        item["answers"] = ["a1"] * 2 + ["a2"] * 8
    (toy_vqa / "questions.json").write_text(json.dumps(items))
    frame = run_to(toy_vqa_config("method=gae", "data.score=official"), tmp_path / "run")
    assert frame["value"].notna().all()


def test_missing_files_name_themselves(toy_vqa_config: Compose, tmp_path: Path) -> None:
    for key in ("questions", "answers", "regions"):
        with pytest.raises(DataError, match="none"):
            run_to(toy_vqa_config("method=gae", f"data.{key}=none.json"), tmp_path / key)
