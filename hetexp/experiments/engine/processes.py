"""Work in several processes, which end with the one that started them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from hetexp.errors import HetexpError
from hetexp.stopping import not_reaching_children

Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerLostError(HetexpError):
    """A worker process was killed from outside."""


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], count: int, start: Callable[..., None], arguments: Sequence[Any]
) -> Iterator[Result]:
    """work(job) of every job, in order.

    Args:
        work: a function of a module.
        count: of processes.
        start: called in each of them first, with `arguments`.

    Raises:
        WorkerLostError: if one of the processes is killed.
    """
    context = multiprocessing.get_context("spawn")  # forking a process that has used CUDA or threads is not safe
    with ProcessPoolExecutor(count, context, initializer=start, initargs=tuple(arguments)) as pool:
        try:
            with not_reaching_children():
                results = pool.map(work, jobs)
            yield from results
        except BaseException as error:  # Ctrl-C too: what they compute is not wanted any more
            # The pool ends its processes when one is lost, but not one that it is just starting, and then waits for it.
            for process in context.active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise WorkerLostError(
                    f"one of {count} worker processes was killed, maybe for lack of memory: take workers={count // 2}; "
                    "what is stored is kept, so the same command continues there"
                ) from error
            raise
