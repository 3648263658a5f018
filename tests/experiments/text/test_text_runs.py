"""Runs of an encoder-decoder: probabilities against one-at-a-time removal, measures, resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from run_helpers import Compose, run_to, same_bytes
from text_models import save_bart

import hetexp
from hetexp.errors import ConfigError, DataError
from hetexp.evaluation.perturbation import FRACTIONS, n_kept
from hetexp.experiments.engine.session import open_session
from hetexp.experiments.tasks import make_samples
from hetexp.reporting.samples import read_samples
from hetexp.targets import Logit

SENTENCES = [
    {
        "id": 1,
        "group": "a",
        "source": "red dog at height 3 , cat at height 2 . is there a dog ?",
        "target": "yes at height 3",
        "decided": [
            {"span": [0, 3], "deciding": [[4, 7], [52, 55]], "role": "answer"},
            {"span": [14, 15], "deciding": [[4, 7], [18, 19]], "role": "evidence"},
        ],
    },
    {"id": 2, "group": "a", "source": "blue cat .", "target": "no", "decided": []},
    {"id": 3, "source": "a dog , a dog . how many dog ?", "target": "2 dog"},
    {"id": 4, "source": " ".join(["cat"] * 30), "target": "no"},
]
METHODS = ("ours_abs", "raw_attention", "random")


@pytest.fixture(scope="session")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bart(tmp_path_factory.mktemp("bart"))


@pytest.fixture
def build(composed: Compose, bart: Path, tmp_path: Path) -> Compose:
    """The configuration of a run over the sentences; further overrides are appended."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sentences.json").write_text(json.dumps(SENTENCES))

    def configuration(*overrides: str) -> DictConfig:
        return composed(
            "model=bart",
            f"model.checkpoint={bart}",
            "data=sentences",
            f"data.root={tmp_path / 'data'}",
            f"methods=[{','.join(METHODS)}]",
            "dtype=float64",
            "chunk_size=2",
            "batch_size=2",
            "bootstrap=20",
            "progress=false",
            f"paths.outputs={tmp_path / 'outputs'}",
            *overrides,
        )

    return configuration


def value(frame: pd.DataFrame, method: str | None, panel: str, metric: str) -> Any:
    own = frame["method"].isna() if method is None else frame["method"] == method
    panels = frame["panel"].fillna("")
    (row,) = frame[own & (panels == panel) & (frame["metric"] == metric)].to_dict("records")
    return row


def explained_tokens(bart: Path) -> list[tuple[dict[str, Any], str, int, int, list[int]]]:
    """Sentence, word, decoder position, token and deciding positions of everything that the file has explained.

    Words are separated by spaces, so positions are those of words, behind <s>.
    """
    ids = json.loads((bart / "tokenizer.json").read_text())["model"]["vocab"]
    out = []
    for sentence in SENTENCES[:3]:
        source, target = str(sentence["source"]), str(sentence["target"])
        decided = sentence.get("decided")
        spans = [(0, [], None)] if decided is None else [(d["span"][0], d["deciding"], d) for d in decided]  # type: ignore[attr-defined]
        places = range(len(target.split())) if decided is None else [target[:start].count(" ") for start, _, _ in spans]
        for number, place in enumerate(places):
            deciding = [] if decided is None else [1 + source[:a].count(" ") for a, _ in spans[number][1]]
            word = target.split()[place]
            out.append((sentence, word, place, ids[word], deciding))
    return out


def test_probabilities_equal_removal_one_at_a_time(build: Compose, bart: Path, tmp_path: Path) -> None:
    frame = run_to(build(), tmp_path / "run")
    adapter = hetexp.load_model(bart, dtype=torch.float64)
    tokenizer, model = adapter.tokenizer, adapter.model
    curves: dict[tuple[str, str, float], list[float]] = {
        (m, order, f): [] for m in METHODS for order in ("negative", "positive") for f in FRACTIONS
    }
    expected_right = []
    for sentence, word, place, token, _ in explained_tokens(bart):
        ids = tokenizer(sentence["source"], return_tensors="pt")["input_ids"][0]
        target = tokenizer(sentence["target"])["input_ids"][:-1]
        prefix = torch.tensor([target[: place + 1]])
        assert tokenizer.convert_ids_to_tokens(token) == word

        def probability(kept: torch.Tensor, prefix: torch.Tensor = prefix, token: int = token) -> float:
            with torch.no_grad():
                return float(model(input_ids=kept[None], decoder_input_ids=prefix).logits[0, -1].softmax(-1)[token])

        inputs = {"input_ids": ids[None], "decoder_input_ids": torch.tensor([target])}
        with torch.no_grad():
            expected_right.append(int(model(**inputs).logits[0, place].argmax()) == token)
        found = hetexp.explain(adapter, inputs, METHODS, Logit(token, query=place))
        for method in METHODS:
            if method == "random":  # its noise belongs to the batch
                continue
            relevance = found[method]["text"][0, 1:-1].float()
            for order, sign in (("negative", -1), ("positive", 1)):
                ranked = (sign * relevance).argsort(descending=True)  # what goes first
                for fraction in FRACTIONS:
                    stay = ranked[len(ranked) - n_kept(len(ranked), fraction) :].sort().values + 1
                    kept = torch.cat([ids[:1], ids[stay], ids[-1:]])
                    curves[method, order, fraction].append(probability(kept))
    for (method, order, fraction), values in curves.items():
        if method != "random":
            row = value(frame, method, "text_perturbation", f"{order}@{fraction:g}")
            assert row["n"] == len(values) == 4
            assert row["value"] == pytest.approx(100 * sum(values) / 4, abs=1e-6)
    whole = [value(frame, m, "text_perturbation", "negative@0")["value"] for m in METHODS]
    assert whole[0] == pytest.approx(whole[2]) == pytest.approx(whole[1])
    assert value(frame, "ours_abs", "text_perturbation", "negative")["value"] != pytest.approx(
        value(frame, "ours_abs", "text_perturbation", "positive")["value"]
    )
    assert value(frame, None, "", "accuracy")["value"] == pytest.approx(100 * sum(expected_right) / 4)


def test_deciding_tokens(build: Compose, bart: Path, tmp_path: Path) -> None:
    frame = run_to(build("controls=[oracle]", "metrics=[deciding_tokens]"), tmp_path / "run")
    adapter = hetexp.load_model(bart, dtype=torch.float64)
    found = []
    for sentence, _, place, token, deciding in explained_tokens(bart):
        if not deciding:
            continue
        inputs = adapter.prepare(sentence["source"], sentence["target"])
        relevance = hetexp.explain(adapter, inputs, ["ours_abs"], Logit(token, query=place))["ours_abs"]["text"][0]
        inside = relevance[deciding]
        outside = relevance[[i for i in range(1, len(relevance) - 1) if i not in deciding]]
        found.append(float((inside[:, None] > outside).double().mean()))
    row = value(frame, "ours_abs", "deciding_tokens", "AUROC")
    assert row["n"] == len(found) == 2  # what nothing is known of takes no part
    assert row["value"] == pytest.approx(100 * sum(found) / 2)
    assert value(frame, "ours_abs", "deciding_tokens/answer", "AUROC")["value"] == pytest.approx(100 * found[0])
    assert value(frame, "oracle", "deciding_tokens", "AUROC")["value"] == 100
    assert value(frame, "oracle", "deciding_tokens", "AUPRC")["value"] == 100
    assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_resumed_sharded_and_batched_runs_agree(build: Compose, tmp_path: Path) -> None:
    whole = run_to(build(), tmp_path / "first")
    again = run_to(build(), tmp_path / "second")
    same_bytes(tmp_path / "first", tmp_path / "second")
    alone = run_to(build("batch_size=1", f"paths.store={tmp_path / 'other'}"), tmp_path / "third")
    quiet = whole["method"] != "random"
    pd.testing.assert_frame_equal(whole[quiet], alone[quiet], check_exact=False, rtol=1e-6)
    assert again.equals(whole)


def test_too_long_sentences_are_skipped(build: Compose, tmp_path: Path) -> None:
    run_to(build(), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["counts"]["ours_abs"] == {"tokens": 4, "skipped_sentences": 1, "not_finite": 0}


def test_samples(build: Compose, tmp_path: Path) -> None:
    make_samples(open_session(build("task=samples", "limit=2"), tmp_path / "run"))
    found = read_samples(tmp_path / "outputs", "text")
    assert [sample.info["item"] for sample in found.samples] == ["1", "2"]
    sample = found.samples[0]
    assert sample.methods == ["ours_abs", "raw_attention", "random"]
    assert sample.need("ours_abs/text").shape == (
        len(sample.info["explained"]),
        len(sample.info["token_texts"]["text"]),
    )


def test_refusals(build: Compose, tmp_path: Path) -> None:
    for overrides, message in (
        (["target=difference"], "target=logit"),
        (["controls=[edges]"], "unknown control 'edges'"),
        (["metrics=[segm]"], "unknown metric 'segm'"),
        (["data=embedded_detection"], "needs text data"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            run_to(build(*overrides), tmp_path / "refused")
