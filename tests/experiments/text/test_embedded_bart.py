"""The embedded BART answers its held-out questions, and relevance finds what decides its words."""

from __future__ import annotations

from pathlib import Path

import torch
from run_helpers import Compose, run_to

import hetexp
from hetexp.data.sentences import read_sentences
from hetexp.paths import asset


def test_it_answers() -> None:
    adapter = hetexp.load_model(asset("bart"))
    chosen = read_sentences(Path(asset("bart")) / "sentences.json")[::20]
    written = adapter.generate(adapter.prepare([s.source for s in chosen]), 12)
    answers = adapter.tokenizer.batch_decode(written, skip_special_tokens=True)
    right = [a.split() == s.target.split() for a, s in zip(answers, chosen, strict=True)]
    assert len(right) > 90
    assert sum(right) >= 0.95 * len(right)
    assert sum(p.numel() for p in adapter.model.parameters()) < 1_500_000


def test_relevance_lights_the_deciding_words(composed: Compose, tmp_path: Path) -> None:
    cfg = composed(
        "+experiment=deciding_tokens", "methods=[ours_abs,random]", "controls=null", "limit=80", "bootstrap=50",
        "progress=false", f"paths.outputs={tmp_path}",
    )  # fmt: skip
    frame = run_to(cfg, tmp_path / "run").set_index(["method", "panel", "metric"])
    ours = frame.loc[("ours_abs", "deciding_tokens", "AUROC")]
    noise = frame.loc[("random", "deciding_tokens", "AUROC")]
    assert ours["value"] > 80
    assert ours["ci_low"] > noise["ci_high"]
    assert 35 < noise["value"] < 65


def test_its_decoder_starts_where_its_tokenizer_does() -> None:
    adapter = hetexp.load_model(asset("bart"))
    assert adapter.start_token == adapter.tokenizer.bos_token_id
    found = adapter.prefix(["yes at height 7"])["decoder_input_ids"]
    assert torch.equal(found[0, 1:], adapter.tokenizer("yes at height 7", return_tensors="pt")["input_ids"][0, 1:-1])
    assert adapter.offsets("yes at height 7", written=True) == [(0, 3), (4, 6), (7, 13), (14, 15)]
