"""Speed of this tree against any earlier commit, in one run: every model, the threshold sweep, perturbed questions.

    python scripts/benchmark_against.py REV [--repeats 5] [--rows 'detr;bart'] [--output FILE]
    make bench AGAINST=REV

The commit is checked out into a temporary folder. One process of each tree lives through the whole run, and both are
timed in turn, row by row and repetition by repetition, in CPU time of one thread; ratios are formed within a
repetition, and their median is printed. Both read the same checkpoints, inputs and questions: small random models of
every architecture, where what a more general adapter costs shows most, and the checkpoints that the package brings. A
row that the commit cannot run has no ratio. Ratios below 0.9 are reported as regressions and end with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIVE = ["gae", "odam", "ours_abs", "ours_pos", "ours_noised"]
REGRESSION = 0.9

# -- in a process of either tree ---------------------------------------------------------------------------------------


def _explain(name: str, zoo: Path) -> Callable[[], Any]:
    """Five methods and three targets of one small model."""
    from safetensors.torch import load_file

    import hetexp

    adapter = hetexp.load_model(name, zoo / name)
    inputs = load_file(zoo / name / "inputs.safetensors")
    targets = [
        hetexp.targets.Logit(index) if query is None else hetexp.targets.Logit(index, query)
        for index, query in json.loads((zoo / name / "targets.json").read_text(encoding="utf-8"))
    ]
    return lambda: [hetexp.explain(adapter, inputs, FIVE, targets) for _ in range(5)]


def _session(folder: Path, *overrides: str) -> Any:
    from hetexp.config import composed
    from hetexp.experiments.engine.session import open_session

    given = [f"methods=[{','.join(FIVE)}]", "progress=false", f"paths.outputs={folder}", *overrides]
    return open_session(composed(*given), folder / "run")


def _sweep(folder: Path) -> Callable[[], Any]:
    """Twenty scales of five methods from a filled store, with intervals."""
    from hetexp.experiments.detection.attribution import attribute_all
    from hetexp.experiments.detection.scores import score_all

    scales = [round(0.1 * n, 1) for n in range(1, 21)]
    session = _session(folder, "+experiment=table1", f"threshold.scale={scales}", "limit=30", "bootstrap=100")
    attribute_all(session)
    return lambda: score_all(session)


def _attribution(experiment: str, limit: int) -> Callable[[Path], Callable[[], Any]]:
    """The first stage of an experiment on the checkpoint that comes with the package, nothing stored."""

    def prepare(folder: Path) -> Callable[[], Any]:
        def once() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as name:
                session = _session(Path(name), f"+experiment={experiment}", f"limit={limit}")
                importlib.import_module(f"hetexp.experiments.{session.kind}.attribution").attribute_all(session)

        return once

    return prepare


# Rows besides the small models.
WHOLE: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "table1": _attribution("table1", 10),
    "figure6, perturbed answers included": _attribution("figure6", 20),
    "20 scales from the store": _sweep,
}


def serve(zoo: Path) -> None:
    """Time rows by name, one line of standard input after the other: CPU seconds or a reason why not."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed meanwhile is no answer
    made: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            name = line.strip()
            try:
                if name not in made:
                    made.clear()
                    own = Path(tempfile.mkdtemp(dir=folder))
                    made[name] = WHOLE[name](own) if name in WHOLE else _explain(name, zoo)
                    made[name]()  # what is loaded or built once
                start = time.process_time()
                made[name]()
                answer: dict[str, Any] = {"seconds": time.process_time() - start}
            except Exception as error:
                answer = {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
            print(json.dumps(answer), file=answers, flush=True)


# -- in the process that compares --------------------------------------------------------------------------------------


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A working tree of that commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


class Timer:
    """A process of one tree that times rows."""

    def __init__(self, tree: Path, zoo: Path) -> None:
        self._tree = tree
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(zoo)],
            cwd=tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def time(self, row: str) -> dict[str, Any]:
        """The answer of `serve`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(row, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process that measures {self._tree} ended at row {row!r}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(now: Timer, then: Timer, row: str, repeats: int) -> tuple[list[str], float | None]:
    """Cells of a row, and the ratio then / now where both could be timed."""
    pairs = []
    for n in range(repeats):
        first, second = (now, then) if n % 2 else (then, now)  # neither is always the first
        answers = {timer: timer.time(row) for timer in (first, second)}
        for answer in (answers[now], answers[then]):
            if "reason" in answer:
                where = "this tree" if answer is answers[now] else "the commit"
                return [row, "", "", f"not run by {where}: {answer['reason']}"], None
        pairs.append((answers[then]["seconds"], answers[now]["seconds"]))
    ratio = statistics.median(a / b for a, b in pairs)
    before, after = (min(column) for column in zip(*pairs, strict=True))
    return [row, f"{before:.3f}", f"{after:.3f}", f"{ratio:.2f}"], ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", help="commit to compare with: a hash, a tag, HEAD~3")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", help="some rows only, separated by semicolons")
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    if args.revision is None:
        parser.error("name a commit")
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "models")]
    from model_zoo import ZOO

    known = [*ZOO, *WHOLE]
    rows = args.rows.split(";") if args.rows else known
    if unknown := set(rows) - set(known):
        parser.error(f"unknown rows {'; '.join(sorted(unknown))}; there are {'; '.join(known)}")
    lines = [
        f"# This tree against {args.revision}",
        f"Least CPU seconds of one thread; median ratio of {args.repeats} repetitions, in turn.",
        "| row | before | now | before / now |\n| --- | --- | --- | --- |",
    ]
    print("\n\n".join(lines))
    slower = []
    with checked_out(args.revision) as tree, tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder)
        for name in set(rows) & set(ZOO):
            ZOO[name].write(zoo / name)
        now, then = Timer(ROOT, zoo), Timer(tree, zoo)
        for row in rows:
            cells, ratio = compare(now, then, row, args.repeats)
            if ratio is not None and ratio < REGRESSION:
                slower.append(row)
                cells[-1] += " (regression)"
            lines[-1] += f"\n| {' | '.join(cells)} |"
            print(f"| {' | '.join(cells)} |", flush=True)
        now.close()
        then.close()
    lines.append(f"Regressions: {', '.join(slower) or 'none'}.")
    print(f"\n{lines[-1]}")
    if args.output:
        args.output.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    if slower:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
