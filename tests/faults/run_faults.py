"""Try faults on a toy run, each in a process of its own, and print what became of it as a Markdown table.

    python tests/faults/run_faults.py --out outputs/reference/faults.md   # as `make faults` does

"Equal" compares results.csv to that of an undisturbed run, byte by byte; of a download, what arrived to what was sent.
About a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from fault import Fault, Row, data_fault, refused, survived
from faulty_server import MEMBER, Answer, archive, hang_up, other, server, status
from inputs import INPUTS
from stops import STOPS
from toy_run import NO_MEMORY, NO_WANDB, ROOT, Done, Toy


def damage(change: Callable[[Path], str]) -> Fault:
    """Something in a complete store is damaged before a rerun."""

    def fault(toy: Toy, name: str) -> Row:
        store = toy.copy_store(name)
        what = change(store)
        again = toy.run(name)
        warned = again.text.count("is damaged and will be computed again")
        return Row(f"{what}; {warned} damaged unit(s) found by the rerun", again.code, toy.equal(again))

    return fault


def _victim(store: Path, pattern: str) -> Path:
    found = sorted(store.glob(f"*/*/*/{pattern}"))
    return found[len(found) // 2]


def cut(pattern: str, share: float) -> Callable[[Path], str]:
    def change(store: Path) -> str:
        path = _victim(store, pattern)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        return f"{path.name} cut to {int(share * len(content))} of {len(content)} bytes"

    return change


def flip(pattern: str) -> Callable[[Path], str]:
    def change(store: Path) -> str:
        path = _victim(store, pattern)
        content = bytearray(path.read_bytes())
        content[len(content) * 3 // 4] ^= 4
        path.write_bytes(bytes(content))
        return f"one bit of {path.name} flipped"

    return change


def overwrite(pattern: str, text: str) -> Callable[[Path], str]:
    def change(store: Path) -> str:
        _victim(store, pattern).write_text(text, encoding="utf-8")
        return f"{pattern} holds {text!r}"

    return change


def remove_chunk(store: Path) -> str:
    shutil.rmtree(sorted(store.glob("*/0*"))[2])
    return "one chunk removed"


def stale(store: Path) -> str:
    for chunk in store.glob("*/0*"):
        (chunk / ".writing-old").mkdir()
        (chunk / ".writing-old" / "tensors.safetensors").write_bytes(b"half")
    return "half-written folders of an earlier process in every chunk"


def missing_file(store: Path) -> str:
    _victim(store, "tensors.safetensors").unlink()
    return "tensors.safetensors removed"


def file_limit(toy: Toy, name: str) -> Row:
    first = toy.run(name, file_limit=5_000)
    stored = len(list(toy.store(name).glob("*/*/*/digests.json")))
    again = toy.run(name)
    return Row(f"{first.last} ({stored} units stored)", first.code, toy.equal(again))


def full_disk(toy: Toy, name: str) -> Row:
    disk = toy.folder / name / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return Row("not tried: mounting a small file system needs root", 0, "-")
    try:
        first = toy.run(name, f"paths.store={disk}/store")
        stored = len(list(disk.glob("store/*/*/*/digests.json")))
        left = len(list(disk.rglob(".writing-*")))
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = toy.run(name, f"paths.store={disk}/store")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return Row(f"{first.last} ({stored} units stored, {left} half-written left)", first.code, toy.equal(again))


def store_is_a_file(toy: Toy, name: str) -> Row:
    (toy.folder / name).mkdir()
    (toy.folder / name / "store").write_text("no folder", encoding="utf-8")
    first = toy.run(name)
    (toy.folder / name / "store").unlink()
    return Row(first.last, first.code, toy.equal(toy.run(name)))


def two_at_once(toy: Toy, name: str) -> Row:
    store = f"paths.store={toy.folder}/{name}/store"
    processes = [toy.start(f"{name}/{i}", store) for i in range(2)]
    done = [toy.finish(f"{name}/{i}", p) for i, p in enumerate(processes)]
    equal = {toy.equal(d) for d in done}
    return Row("both processes ended well", max(abs(d.code) for d in done), "yes" if equal == {"yes"} else "NO")


def shards(change: Callable[[Path], str], fix: Callable[[Path, Path], None]) -> Fault:
    """Two shards, something wrong with them, a merge that refuses; then fixed and merged."""

    def fault(toy: Toy, name: str) -> Row:
        ready = toy.folder / "shards"
        for i in range(2):
            if not (ready / str(i)).exists():
                done = toy.run(f"shards/{i}", f"shard={i}/2")
                assert done.code == 0, done.text
        folder = Path(shutil.copytree(ready, toy.folder / name / "shards"))
        merge = ("task=merge", f"merge.from={folder}")
        what = change(folder)
        first = toy.run(name, *merge)
        fix(ready, folder)
        return Row(f"{what}: {first.last}", first.code, toy.equal(toy.run(name, *merge)))

    return fault


def _restore(ready: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(ready, folder)


def gap(folder: Path) -> str:
    shutil.rmtree(folder / "1")
    return "one shard missing"


def overlap(folder: Path) -> str:
    shutil.copytree(folder / "1", folder / "2")
    return "one shard there twice"


def mixed(folder: Path) -> str:
    path = folder / "1" / "run" / "config.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("score_threshold: 0.1", "score_threshold: 0.2"), encoding="utf-8"
    )
    return "shards of two configurations"


def cut_manifest(folder: Path) -> str:
    path = folder / "1" / "run" / "shard.json"
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    return "shard.json cut short"


def lost_store(folder: Path) -> str:
    shutil.rmtree(folder / "1" / "run" / "store")
    return "a shard's store gone"


def damaged_shard(folder: Path) -> str:
    return flip("tensors.safetensors")(folder / "1" / "run" / "store") + ", merged nevertheless by computing it again"


def network(data: str, body: bytes, faults: list[Answer], given: tuple[str, ...] = (), recovers: bool = True) -> Fault:
    """task=download against a server with faults, then once more; "equal" is whether everything arrived whole."""

    def fault(toy: Toy, name: str) -> Row:
        root = toy.folder / name / "data"
        for path in given:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("[]", encoding="utf-8")
        with server(body, list(faults)) as url:
            base = [sys.executable, str(ROOT / "run.py"), "task=download", f"data={data}", f"data.root={root}"]
            command = [*base, f"data.mirror={url}", "progress=false", f"hydra.run.dir={root.parent}/run"]
            environment = os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
            texts = [
                subprocess.run(command, capture_output=True, text=True, env=environment, cwd=toy.folder, check=False)
                for _ in range(2)
            ]
        first = Done(texts[0].returncode, texts[0].stdout + texts[0].stderr, None)
        files = [p for p in root.rglob("*") if p.is_file() and ".downloads" not in p.parts]
        arrived = texts[1].returncode == 0 and all(p.read_bytes() in (body, b"[]", MEMBER) for p in files)
        happened = first.last if first.code or "WARNING" in first.text else "continued by itself"
        if not recovers:
            return Row(happened, first.code, "NO" if files or texts[1].returncode == 0 else "-")
        return Row(happened, first.code, "yes" if arrived else "NO")

    return fault


def table(folder: Path) -> dict[str, Fault]:
    """Every fault by name."""
    zipped = archive(folder)
    brought = ["vqa/trainval_label2ans.json", "vqa/v2_OpenEnded_mscoco_val2014_questions.json"]
    brought += ["vqa/v2_mscoco_val2014_annotations.json", "vqa/valid.json"]
    lines = b"[" + b"1, " * 60_000 + b"1]"
    return {
        **STOPS,
        "full disk": full_disk,
        "file size limit": file_limit,
        "store's place taken by a file": store_is_a_file,
        "stored tensors cut short": damage(cut("tensors.safetensors", 0.6)),
        "stored tensors emptied": damage(cut("tensors.safetensors", 0)),
        "bit flip in stored tensors": damage(flip("tensors.safetensors")),
        "bit flip in stored rows": damage(flip("detections.parquet")),
        "digests cut short": damage(cut("digests.json", 0.5)),
        "digests of another kind": damage(overwrite("digests.json", "[1]")),
        "stored file missing": damage(missing_file),
        "chunk missing": damage(remove_chunk),
        "stale temporary folders": damage(stale),
        "annotations cut short (bad JSON)": data_fault("scenes/annotations.json", lambda b: b[: len(b) // 2]),
        "annotations without a list": data_fault(
            "scenes/annotations.json", lambda b: b.replace(b'"categories"', b'"x"')
        ),
        "annotations missing": data_fault("scenes/annotations.json", lambda b: None),
        "image missing": data_fault("scenes/images/004.png", lambda b: None),
        "image cut short": data_fault("scenes/images/004.png", lambda b: b[: len(b) // 2]),
        "image empty": data_fault("scenes/images/004.png", lambda b: b""),
        "checkpoint cut short": data_fault("model/model.safetensors", lambda b: b[: len(b) // 2]),
        "checkpoint's config is bad JSON": data_fault("model/config.json", lambda b: b[:50]),
        "checkpoint of another size": data_fault(
            "model/config.json", lambda b: b.replace(b'"num_queries": 8', b'"num_queries": 9')
        ),
        "unknown method": refused("methods=[gae,nope]"),
        "unknown key": refused("treshold.scale=1"),
        "threshold that is no number": refused("threshold.scale=high"),
        "shard out of range": refused("shard=2/2"),
        "checkpoint that does not exist": refused("model.checkpoint=/nowhere"),
        "device that does not exist": refused("device=cuda:9"),
        "two processes on one store": two_at_once,
        "merge with a gap": shards(gap, _restore),
        "merge with an overlap": shards(overlap, _restore),
        "merge of mixed configurations": shards(mixed, _restore),
        "merge with a damaged manifest": shards(cut_manifest, _restore),
        "merge without a shard's store": shards(lost_store, _restore),
        "merge with damaged tensors": shards(damaged_shard, lambda ready, folder: None),
        "batch that does not fit into memory": survived("batch_size=2", code=NO_MEMORY.format(fits=1)),
        "image that does not fit into memory": refused(code=NO_MEMORY.format(fits=0)),
        "W&B without network": survived("logger=wandb", code=NO_WANDB),
        "download: 404": network("lxmert_splits", lines, [status(404)]),
        "download: two times 503": network("lxmert_splits", lines, [status(503), status(503)]),
        "download: connection broken three times": network("lxmert_splits", lines, [hang_up] * 3),
        "download: page instead of JSON": network("lxmert_splits", lines, [other(b"<html>login</html>")]),
        "download: truncated zip": network("vqa_v2", zipped, [other(zipped[:200])], tuple(brought)),
        "download: wrong checksum": network("detr_r50", lines, [], recovers=False),
        **INPUTS,
    }


def main() -> None:
    """Try the faults whose name matches --only and print the table; --out takes it when all were tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="pattern in a fault's name")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| fault | what happened | exit code | rerun equal |", "|---|---|---:|---|"]
    print("\n".join(lines), flush=True)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        toy = Toy(Path(name))
        for number, (title, fault) in enumerate(table(toy.folder).items()):
            if re.search(args.only, title):
                row = fault(toy, f"fault{number}")
                text = re.sub(r"127\.0\.0\.1:\d+", "server", row.happened)
                text = text.replace(f"{toy.folder}/", "").replace(str(toy.folder), "toy").replace("|", "/")
                lines.append(f"| {title} | {text} | {row.code} | {row.equal} |")
                print(lines[-1], flush=True)
                bad += row.equal == "NO"
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    main()
