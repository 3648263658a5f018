"""Peak memory of a whole run over more and more images, each in a process of its own, as a Markdown table.

    python scripts/measure_memory.py > outputs/reference/memory.md

A tiny DETR on small random images, so that what grows with the number of images is not hidden behind the model. Linux
only; about ten minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from hetexp.config import composed
from hetexp.experiments.detection.attribution import attribute_all
from hetexp.experiments.detection.scores import score_all
from hetexp.experiments.engine.session import open_session

TOY = Path(__file__).parents[1] / "tests" / "faults"  # whose toy model and scenes are measured


def peak() -> float:
    """Largest resident memory since the last call, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # start a new maximum
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, count: int) -> None:
    """Print the peaks of one run's parts."""
    sys.path.insert(0, str(TOY))
    from toy_run import write_model, write_scenes

    torch.set_num_threads(1)
    write_model(folder / "model")
    write_scenes(folder / "scenes", count)
    given = ["data=coco", f"data.root={folder / 'scenes'}", f"model.checkpoint={folder / 'model'}"]
    given += ["model.score_threshold=0.1", "batch_size=10", "methods=[gae,ours_abs]", "progress=false"]
    session = open_session(composed(*given, f"paths.outputs={folder / 'out'}"), folder / "run")
    print(f"{len(session.data.items)} images, store {session.store.key}", file=sys.stderr)  # opens data and model
    peaks = [peak()]
    attribute_all(session)
    peaks.append(peak())
    score_all(session)
    peaks.append(peak())
    masks = session.facts["counts"]["gae@1"]["masks"]
    print(f"| {count} | {masks} | " + " | ".join(f"{value:.0f}" for value in peaks) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="100,1000,5000", help="numbers of images")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        measure(args.one, int(args.images))
        return
    print("# Peak memory, MiB\n")
    print("| images | masks per method | open data and model | attribute | evaluate |\n| --- | --- | --- | --- | --- |")
    for count in args.images.split(","):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--images", count, "--one", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
