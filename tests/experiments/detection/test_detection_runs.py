"""Runs from configuration to results.csv: caching, resuming, damage, shards, bad input."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from run_helpers import Compose, run_to, same_bytes

from hetexp.attribution.corrections import CorrectedMaps
from hetexp.attribution.registry import METHODS, MethodRecord
from hetexp.errors import ConfigError, DataError
from hetexp.experiments.detection import attribution
from hetexp.experiments.detection.metrics import SegmentationAP
from hetexp.experiments.engine import store
from hetexp.experiments.engine.shards import find_shards, merged_session
from hetexp.experiments.tasks import evaluate
from hetexp.models.detr import DetrAdapter
from hetexp.models.trace import AttentionTrace

FIVE = "methods=[gae,odam,ours_abs,ours_pos,ours_noised]"


def test_table_has_every_method_scale_and_metric(toy_config: Compose, tmp_path: Path) -> None:
    frame = run_to(toy_config(FIVE, "threshold.scale=[1.0,0.3]"), tmp_path / "run")
    assert set(frame["method"]) == {"gae", "odam", "ours_abs", "ours_pos", "ours_noised"}
    assert set(frame["threshold"]) == {1.0, 0.3}
    assert list(frame["metric"].unique()) == list(SegmentationAP.shown)
    assert (frame["n"] == 7).all()
    assert frame["value"].dropna().between(0, 100).all()
    assert frame.loc[frame["method"] == "ours_noised", "noise_link"].eq("row").all()
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert (tmp_path / "run" / "results.md").is_file()


def test_overrides_name_the_combination(toy_config: Compose, tmp_path: Path) -> None:
    frame = run_to(toy_config("method=ours_pos", "noise_link=row"), tmp_path / "a")
    other = run_to(toy_config("method=ours_noised"), tmp_path / "b")
    assert set(frame["method"]) == {"ours_noised"}
    pd.testing.assert_frame_equal(frame, other)
    frame = run_to(toy_config("method=ours_pos", "correction=abs", "noise_link=total"), tmp_path / "c")
    assert set(frame["method"]) == {"ours_abs(noise_link=total)"}


def test_second_run_never_touches_the_model(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to(toy_config(FIVE), tmp_path / "a")
    monkeypatch.setattr(DetrAdapter, "trace", lambda *a, **k: pytest.fail("the model ran again"))
    run_to(toy_config(FIVE), tmp_path / "b")
    run_to(toy_config("method=gae", "threshold.scale=0.5"), tmp_path / "c")
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_worker_processes_give_the_same_bytes(toy_config: Compose, tmp_path: Path) -> None:
    given = ("methods=[gae,ours_abs]", "threshold.scale=[1.0,0.3]", "model.include_below_threshold=true")
    run_to(toy_config(*given), tmp_path / "a")
    run_to(toy_config(*given, "workers=2"), tmp_path / "b")
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_a_missing_method_alone_is_computed(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_to(toy_config("method=gae"), tmp_path / "a")
    seen: list[set[str]] = []
    original = attribution.attribute

    def attribute(trace: AttentionTrace, methods: Mapping[str, Any]) -> Any:
        seen.append(set(methods))
        return original(trace, methods)

    monkeypatch.setattr(attribution, "attribute", attribute)
    run_to(toy_config("methods=[gae,odam]"), tmp_path / "b")
    assert seen
    assert all(names == {"odam"} for names in seen)


def test_interrupted_run_continues_with_equal_bytes(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = toy_config(FIVE, f"paths.store={tmp_path / 'plain'}")
    run_to(plain, tmp_path / "a")
    original = store.Store.write
    calls = {"n": 0}

    def dies(self: store.Store, *args: Any, **kwargs: Any) -> None:
        calls["n"] += 1
        if calls["n"] == 9:
            raise KeyboardInterrupt
        original(self, *args, **kwargs)

    broken = toy_config(FIVE, f"paths.store={tmp_path / 'broken'}")
    monkeypatch.setattr(store.Store, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        run_to(broken, tmp_path / "b")
    monkeypatch.setattr(store.Store, "write", original)
    assert not (tmp_path / "b" / "results.csv").exists()
    run_to(broken, tmp_path / "c")
    same_bytes(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("damage", ["truncate", "flip", "no digests", "empty digests"])
def test_damaged_units_are_computed_again(toy_config: Compose, tmp_path: Path, damage: str) -> None:
    cfg = toy_config(FIVE)
    run_to(cfg, tmp_path / "a")
    victims = sorted((tmp_path / "outputs" / "store").rglob("tensors.safetensors"))
    victim = victims[len(victims) // 2]
    if damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == "flip":
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(bytes(data))
    elif damage == "no digests":
        (victim.parent / store.DIGESTS).unlink()
    else:
        (victim.parent / store.DIGESTS).write_text("{}")
    run_to(cfg, tmp_path / "b")
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_full_disk_is_an_error_and_a_rerun_continues(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy_config("method=gae")
    run_to(toy_config("method=gae", f"paths.store={tmp_path / 'plain'}"), tmp_path / "a")
    original = store.save_file
    calls = {"n": 0}

    def full(*args: Any, **kwargs: Any) -> None:
        calls["n"] += 1
        if calls["n"] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args, **kwargs)

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(DataError, match="No space left"):
        run_to(cfg, tmp_path / "b")
    assert not list((tmp_path / "outputs" / "store").rglob(".writing-*"))
    monkeypatch.setattr(store, "save_file", original)
    run_to(cfg, tmp_path / "c")
    same_bytes(tmp_path / "a", tmp_path / "c")


def test_shards_merge_to_the_plain_run(toy_config: Compose, tmp_path: Path) -> None:
    run_to(toy_config(FIVE), tmp_path / "plain")
    for i in range(3):
        run_to(toy_config(FIVE, f"shard={i}/3"), tmp_path / "shards" / str(i))
        assert not (tmp_path / "shards" / str(i) / "results.csv").exists()
    cfg = toy_config("task=merge", f"merge.from={tmp_path / 'shards'}")
    evaluate(merged_session(cfg, tmp_path / "merged"))
    same_bytes(tmp_path / "plain", tmp_path / "merged")


def test_merge_refuses_gaps_overlaps_and_mixtures(toy_config: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    with pytest.raises(DataError, match="no finished shard"):
        find_shards(tmp_path)
    run_to(toy_config("method=gae", "shard=0/2"), folder / "a")
    with pytest.raises(DataError, match="shard=1/2"):
        find_shards(folder)
    run_to(toy_config("method=gae", "shard=0/2"), folder / "b")
    with pytest.raises(DataError, match="more than once"):
        find_shards(folder)
    run_to(toy_config("method=gae", "shard=1/2", "threshold.scale=0.3"), folder / "b")
    with pytest.raises(DataError, match=r"threshold.scale: 1.0 and 0.3"):
        find_shards(folder)
    (folder / "b" / "shard.json").write_text("{")
    with pytest.raises(DataError, match="no complete shard"):
        find_shards(folder)


def test_corrupt_image_is_a_counted_skip(toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    image = toy_scenes / "images" / "003.png"
    image.write_bytes(image.read_bytes()[:400])
    frame = run_to(toy_config("method=gae"), tmp_path / "run")
    assert (frame["n"] == 6).all()
    counts = json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["gae@1"]
    assert counts["skipped_images"] == 1
    assert counts["images"] == 6


def test_changed_image_is_attributed_again(toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    cfg = toy_config("method=gae")
    run_to(cfg, tmp_path / "a")
    chunks = {p.name for p in (tmp_path / "outputs" / "store").glob("*/0*")}
    (toy_scenes / "images" / "003.png").write_bytes((toy_scenes / "images" / "000.png").read_bytes())
    run_to(cfg, tmp_path / "b")
    fresh = {p.name for p in (tmp_path / "outputs" / "store").glob("*/0*")} - chunks
    assert [name[:6] for name in fresh] == ["000001"]


class Broken:
    """A method whose relevance is not a number."""

    corrections: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def __call__(self, trace: AttentionTrace, maps: CorrectedMaps) -> dict[str, torch.Tensor]:
        return {"image": torch.full((trace.n_targets, len(trace.layouts["image"].index)), torch.nan)}


def test_nothing_kept_and_nan_relevance_are_counted(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = run_to(toy_config("method=gae", "model.score_threshold=0.999"), tmp_path / "none")
    counts = json.loads((tmp_path / "none" / "run.json").read_text())["counts"]["gae@1"]
    assert counts["no_kept_query"] == 7
    assert frame["value"].dropna().eq(0).all()

    monkeypatch.setitem(METHODS, "broken", MethodRecord("broken", "Broken", f"{__name__}:Broken", "none"))
    run_to(toy_config("methods=[broken]"), tmp_path / "nan")
    counts = json.loads((tmp_path / "nan" / "run.json").read_text())["counts"]["broken@1"]
    assert counts["not_finite"] == counts["masks"] == counts["empty_masks"] > 0


def test_batches_of_images_give_the_numbers_of_single_ones(toy_config: Compose, tmp_path: Path) -> None:
    one = run_to(toy_config(FIVE), tmp_path / "a")
    many = run_to(toy_config(FIVE, "batch_size=2"), tmp_path / "b")
    assert one["value"].dropna().to_numpy() == pytest.approx(many["value"].dropna().to_numpy(), abs=0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("threshold.scale=0", "positive number"),
        ("threshold.scale=-1", "positive number"),
        ("threshold.scale=abc", "positive number"),
        ("threshold.scale=[]", "empty list"),
        ("methods=[gae,nope]", "Available methods"),
        ("methods=[gae,gae]", "each once"),
        ("shard=4/4", "counted from 0"),
        ("shard=x", "i/n"),
        ("batch_size=0", "at least 1"),
        ("chunk_size=0", "at least 1"),
        ("limit=0", "at least 1"),
        ("model.score_threshold=1.5", "probability"),
        ("device=cuda:77", "device"),
    ],
)
def test_bad_values_name_themselves(toy_config: Compose, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_to(toy_config("method=ours_abs", override), tmp_path / "run")
    assert not (tmp_path / "run" / "results.csv").exists()


def test_override_of_a_method_without_choice_is_refused(toy_config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not apply to method 'gae'"):
        run_to(toy_config("method=gae", "correction=abs"), tmp_path / "run")


def test_earlier_results_survive_a_failing_run(toy_config: Compose, tmp_path: Path) -> None:
    run_to(toy_config("method=gae"), tmp_path / "run")
    before = (tmp_path / "run" / "results.csv").read_bytes()
    with pytest.raises(DataError, match="annotation"):
        run_to(toy_config("method=gae", "data.annotations=none.json"), tmp_path / "run")
    assert (tmp_path / "run" / "results.csv").read_bytes() == before
    assert Path(tmp_path / "run" / "results.md").is_file()


def test_a_run_without_any_usable_image_says_so(toy_config: Compose, toy_scenes: Path, tmp_path: Path) -> None:
    for path in (toy_scenes / "images").iterdir():
        path.write_bytes(b"not an image")
    for _ in range(2):  # the second run reads the skips from the store
        with pytest.raises(DataError, match=r"all 7 images were skipped.*000\.png is damaged"):
            run_to(toy_config("method=gae"), tmp_path / "a")
    assert not (tmp_path / "a" / "results.csv").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+treshold.scale=1", r"unknown key treshold: did you mean threshold\?"),
        ("+threshold.scal=1", r"unknown key threshold\.scal: did you mean threshold\.scale\?"),
    ],
)
def test_mistyped_keys_are_refused(toy_config: Compose, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_to(toy_config("method=gae", override), tmp_path / "a")
