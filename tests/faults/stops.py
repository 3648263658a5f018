"""Runs that are stopped: killed, interrupted, terminated, at random moments, in sweeps and with workers."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

from fault import Fault, Row
from toy_run import UNITS, Run, Toy

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
LINE = re.compile(r"stopped.*(continues there|start the same command again)")


def units(toy: Toy, name: str) -> int:
    """Units that are stored whole."""
    return len([p for p in toy.store(name).glob("*/*/*/digests.json") if not p.parent.name.startswith(".")])


def wait_for(toy: Toy, name: str, process: Run, wanted: int) -> None:
    """Until so many units are stored, or the run ends by itself."""
    while units(toy, name) < wanted and process.poll() is None:
        time.sleep(0.001)


def stop(number: signal.Signals, seed: int, *options: str, whole: bool = True) -> Fault:
    """A signal at a random moment: every fifth anywhere in the run, the others while the store is being written.

    Args:
        whole: to all processes of the run, as Ctrl-C does; otherwise to the first alone, as `kill` does.
    """

    def fault(toy: Toy, name: str) -> Row:
        rng = random.Random(seed)
        began, process = time.monotonic(), toy.start(name, *options)
        if options:  # where workers are at work
            wait_for(toy, name, process, UNITS)
            time.sleep(rng.uniform(0.2, 2) * toy.seconds)
        elif seed % 5 == 0:
            time.sleep(rng.uniform(0.1, 0.98) * toy.seconds)
        else:
            wait_for(toy, name, process, rng.randrange(UNITS))
            time.sleep(rng.uniform(0, 0.05))
        after = time.monotonic() - began
        if process.poll() is None:
            (os.killpg if whole else os.kill)(process.pid, number)
        text, _ = process.communicate()
        stored = units(toy, name)
        code = process.returncode
        said = "" if number == signal.SIGKILL else _said(text, code, number)
        equal = toy.equal(toy.run(name, *options))
        if said.startswith("NOT"):
            equal = "NO"
        return Row(f"stopped after {after:.1f} s with {stored} of {UNITS} units stored{said}", code, equal)

    return fault


def _said(text: str, code: int, number: signal.Signals) -> str:
    """What the program said: one line, unless it was done before the signal came."""
    lines = [line for line in text.splitlines() if line.strip()]
    if code == 0:
        return "; it was done before"
    one = code == CODES[number] and sum(bool(LINE.search(line)) for line in lines) == 1 and "Traceback" not in text
    return "; one line says so" if one else f"; NOT one line: {' / '.join(lines[-3:])}"


def sweep(number: signal.Signals) -> Fault:
    """A sweep that is stopped after the first of its jobs."""

    def fault(toy: Toy, name: str) -> Row:
        options = ("-m", "threshold.scale=1.0,0.6,0.3")
        whole = toy.run(f"{name}/whole", *options)
        process = toy.start(f"{name}/broken", *options)
        first = toy.folder / name / "broken" / "run" / "0" / "results.csv"
        while not first.exists() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        text, _ = process.communicate()
        again = toy.run(f"{name}/broken", *options)
        equal = again.code == 0 and whole.results is not None and again.results == whole.results
        said = "" if number == signal.SIGKILL else _said(text, process.returncode, number)
        good = equal and not said.startswith("; NOT")
        return Row(f"stopped after the first of three jobs{said}", process.returncode, "yes" if good else "NO")

    return fault


def killed_worker(toy: Toy, name: str) -> Row:
    """One of the processes that evaluate is killed, as the system does when memory runs out."""
    process = toy.start(name, "workers=2")
    victims: list[int] = []
    while not victims and process.poll() is None:
        victims = [pid for pid in children(process.pid) if "spawn_main" in command(pid)]
        time.sleep(0.001)
    for pid in victims[:1]:
        os.kill(pid, signal.SIGKILL)
    done = toy.finish(name, process)
    return Row(done.last, done.code, toy.equal(toy.run(name, "workers=2")))


def killed_shard(toy: Toy, name: str) -> Row:
    """A sweep of shards is killed; the option that it names makes the same command continue, and shards are merged."""
    shards = ("-m", "shard=0/2,1/2")
    process = toy.start(name, *shards)
    stores = toy.folder / name / "run"
    while not list(stores.glob("1/store/*/*/*/digests.json")) and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    text, _ = process.communicate()
    hint = re.search(r"the same command with (hydra\.sweep\.dir=\S+) continues there", text)
    if hint is None:
        return Row(f"NOT told how to go on: {text[-200:]}", process.returncode, "NO")
    kept = len(list(stores.glob("*/store/*/*/*/digests.json")))
    toy.run(name, *shards, hint[1])
    merged = toy.run(f"{name}/merged", "task=merge", f"merge.from={stores}")
    return Row(f"killed with {kept} of {UNITS} units stored; {hint[0]}", process.returncode, toy.equal(merged))


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def command(pid: int) -> str:
    """A process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


STOPS: dict[str, Fault] = {
    **{f"SIGKILL at a random moment ({seed + 1})": stop(signal.SIGKILL, seed) for seed in range(30)},
    **{f"Ctrl-C at a random moment ({seed + 1})": stop(signal.SIGINT, seed) for seed in range(5)},
    **{f"SIGTERM at a random moment ({seed + 1})": stop(signal.SIGTERM, seed, whole=False) for seed in range(5)},
    "Ctrl-C with two workers": stop(signal.SIGINT, 1, "workers=2"),
    "SIGTERM with two workers": stop(signal.SIGTERM, 2, "workers=2", whole=False),
    "a worker killed": killed_worker,
    "sweep killed": sweep(signal.SIGKILL),
    "Ctrl-C in a sweep": sweep(signal.SIGINT),
    "SIGTERM in a sweep": sweep(signal.SIGTERM),
    "sweep of shards killed": killed_shard,
}
