"""Faults of machine and memory: kills, batches too large, several processes; runs end with equal bytes all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from run_helpers import Compose, run_to, same_bytes
from safetensors.torch import load_file

from hetexp.experiments.engine.memory import MemoryFullError, OutOfMemoryRetry, is_out_of_memory
from hetexp.experiments.engine.shards import merged_session
from hetexp.experiments.engine.store import Store
from hetexp.experiments.tasks import evaluate
from hetexp.files import WRITING
from hetexp.models.detr import DetrAdapter
from hetexp.models.lxmert import LxmertAdapter
from hetexp.paths import files_named

ROOT = Path(__file__).parents[3]
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def limited(original: Callable[..., Any], fits: int, error: Exception = FULL) -> Callable[..., Any]:
    """An adapter's trace that has memory for `fits` items."""

    def trace(self: Any, inputs: Any, targets: Sequence[Any], **more: Any) -> Any:
        if len(targets) > fits:
            raise error
        return original(self, inputs, targets, **more)

    return trace


def relevance(store: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(store.rglob("tensors.safetensors")):
        at = "/".join(path.parts[-3:-1])
        tensors |= {f"{at}/{name}": tensor for name, tensor in load_file(path).items()}
    return tensors


def close(a: Path, b: Path) -> None:
    one, other = relevance(a), relevance(b)
    assert one
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        scale = tensor.abs().max().item() if tensor.numel() else 0.0
        assert torch.allclose(tensor, other[name], rtol=1e-3, atol=1e-5 * scale + 1e-12), name


@pytest.mark.parametrize(
    "error",
    [FULL, RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")],
)
def test_a_batch_too_large_is_halved(
    toy_config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    base = ["methods=[gae,ours_noised]", "batch_size=4", "chunk_size=4", "limit=5"]
    run_to(toy_config(*base, f"paths.store={tmp_path / 'a'}"), tmp_path / "plain")
    monkeypatch.setattr(DetrAdapter, "trace", limited(DetrAdapter.trace, 1, error))
    run_to(toy_config(*base, f"paths.store={tmp_path / 'b'}"), tmp_path / "halved")
    assert caplog.text.count("is halved") == 1
    close(tmp_path / "a", tmp_path / "b")
    one, other = (pd.read_csv(tmp_path / name / "results.csv") for name in ("plain", "halved"))
    assert one["value"].to_numpy() == pytest.approx(other["value"].to_numpy(), abs=0.5, nan_ok=True)


def test_questions_too_many_at_once_are_halved(
    toy_vqa_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = ["methods=[gae,ours_abs]"]
    run_to(toy_vqa_config(*base, f"paths.store={tmp_path / 'a'}"), tmp_path / "plain")
    monkeypatch.setattr(LxmertAdapter, "trace", limited(LxmertAdapter.trace, 1))
    whole = LxmertAdapter.answer_parts

    def answer_parts(self: LxmertAdapter, texts: Sequence[Any], regions: Sequence[Any]) -> torch.Tensor:
        if len(texts) > 60:
            raise FULL
        return whole(self, texts, regions)

    monkeypatch.setattr(LxmertAdapter, "answer_parts", answer_parts)
    run_to(toy_vqa_config(*base, f"paths.store={tmp_path / 'b'}"), tmp_path / "halved")
    assert caplog.text.count("is halved") == 1
    close(tmp_path / "a", tmp_path / "b")


def test_memory_short_for_a_moment_changes_nothing(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["method=gae", "batch_size=4", "chunk_size=4"]
    run_to(toy_config(*base, f"paths.store={tmp_path / 'a'}"), tmp_path / "plain")
    original, calls = DetrAdapter.trace, [0]

    def trace(self: Any, *args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise FULL
        return original(self, *args, **more)

    monkeypatch.setattr(DetrAdapter, "trace", trace)
    run_to(toy_config(*base, f"paths.store={tmp_path / 'b'}"), tmp_path / "again")
    same_bytes(tmp_path / "plain", tmp_path / "again")


def test_an_image_too_large_is_named_and_a_rerun_continues(
    toy_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = toy_config("method=gae", "batch_size=2")
    run_to(toy_config("method=gae", "batch_size=2", f"paths.store={tmp_path / 'plain'}"), tmp_path / "a")
    original = DetrAdapter.trace

    def trace(self: Any, inputs: dict[str, torch.Tensor], targets: Sequence[Any], **more: Any) -> Any:
        if inputs["pixel_values"].shape[2] > inputs["pixel_values"].shape[3]:  # a portrait
            raise FULL
        return original(self, inputs, targets, **more)

    monkeypatch.setattr(DetrAdapter, "trace", trace)
    with pytest.raises(
        MemoryFullError, match=r"00\d\.png does not fit .* \(CUDA out of memory.*model\.score_threshold=0\.2"
    ):
        run_to(cfg, tmp_path / "b")
    assert not (tmp_path / "b" / "results.csv").exists()
    monkeypatch.setattr(DetrAdapter, "trace", original)
    run_to(cfg, tmp_path / "c")
    same_bytes(tmp_path / "a", tmp_path / "c")


def test_halving_keeps_the_order_and_passes_other_errors_on() -> None:
    sizes: list[int] = []

    def compute(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise MemoryError
        return [10 * i for i in items]

    run = OutOfMemoryRetry("advice")
    assert run(compute, list(range(7)), str) == [10 * i for i in range(7)]
    assert max(s for s in sizes if s <= 2) == 2
    assert run(compute, [], str) == []
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(lambda items: (_ for _ in ()).throw(RuntimeError("shapes differ")), [1], str)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_half_written_folders_of_dead_processes_go_away_in_time(tmp_path: Path) -> None:
    store = Store(tmp_path, {"a": 1}, "x")
    old, new = (store.folder / "000000-a" / f".writing-{n}" for n in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "tensors.safetensors").write_bytes(b"half")
    day = time.time() - 86_400
    os.utime(old, (day, day))
    store.write("000000-a", "rows", tensors={"t": torch.ones(1)})
    assert not old.exists()
    assert new.exists()  # another process may be writing it
    assert np.array_equal(store.read("000000-a", "rows").tensors["t"], [1])


def test_merging_again_into_one_folder(toy_config: Compose, tmp_path: Path) -> None:
    """A damaged unit is computed anew by the first merge; the second must neither fail nor bring it back."""
    run_to(toy_config("method=gae"), tmp_path / "plain")
    for i in range(2):
        run_to(toy_config("method=gae", f"shard={i}/2"), tmp_path / "shards" / str(i))
    victim = sorted((tmp_path / "shards" / "1").rglob("tensors.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-4])
    (victim.parent.parent / f"{WRITING}dead").mkdir()
    cfg = toy_config("task=merge", f"merge.from={tmp_path / 'shards'}")
    for _ in range(2):
        evaluate(merged_session(cfg, tmp_path / "merged"))
        same_bytes(tmp_path / "plain", tmp_path / "merged")
    assert not list((tmp_path / "merged").rglob(f"{WRITING}*"))


def start(cfg_file: Path, folder: Path) -> subprocess.Popen[str]:
    """A toy run in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from omegaconf import OmegaConf; from hetexp.config import Config\n"
        "from hetexp.experiments.engine.session import open_session; from hetexp.experiments.tasks import evaluate\n"
        "cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(sys.argv[1]))\n"
        "evaluate(open_session(cfg, Path(sys.argv[2])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(cfg_file), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_run_and_two_processes_on_its_store(toy_config: Compose, tmp_path: Path) -> None:
    """SIGKILL in the middle of writing; then two processes continue in the same store at once."""
    methods = "methods=[gae,odam,ours_abs]"
    run_to(toy_config(methods, f"paths.store={tmp_path / 'plain'}"), tmp_path / "plain_run")
    shared = tmp_path / "shared"
    OmegaConf.save(toy_config(methods, f"paths.store={shared}", "threads=1"), tmp_path / "cfg.yaml", resolve=True)
    victim = start(tmp_path / "cfg.yaml", tmp_path / "killed")
    while len(files_named("digests.json", shared)) < 6 and victim.poll() is None:
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.csv").exists()
    both = [start(tmp_path / "cfg.yaml", tmp_path / name) for name in ("b", "c")]
    for name, process in zip("bc", both, strict=True):
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
        same_bytes(tmp_path / "plain_run", tmp_path / name)


def test_stored_units_are_readable_by_whom_the_umask_allows(tmp_path: Path) -> None:
    store = Store(tmp_path, {"a": 1}, "x")
    before = os.umask(0o027)
    try:
        store.write("000000-a", "rows", tensors={"t": torch.ones(1)}, tables={"r": pd.DataFrame({"a": [1]})})
    finally:
        os.umask(before)
    unit = store.unit("000000-a", "rows")
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (unit, *unit.iterdir())} == {
        "rows": "0o750",
        "tensors.safetensors": "0o640",
        "r.parquet": "0o640",
        "digests.json": "0o640",
    }
