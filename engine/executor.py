"""Where checkpoints are measured: in this process, or in several.

Jobs are independent and their results do not depend on how many workers there are or who finishes first.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from .errors import KolmogramError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What every library of threads reads when it is loaded: workers that take all cores each only wait for each other."""

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run_local(
    setup: Callable[[], Callable[[Job], Outcome]], jobs: Iterable[Job], workers: int = 1
) -> Iterator[Outcome]:
    """Do the jobs and give each outcome as it is ready.

    `setup()` makes the function that does one job; with several workers it is called once in each process, so it and
    the jobs must be picklable. Processes are spawned, never forked: a forked CUDA context is broken.
    """
    jobs = list(jobs)
    if workers <= 1 or len(jobs) <= 1:
        yield from map(setup(), jobs)
        return
    _check_picklable(setup)
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (setup, threads))
    try:
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))):  # inherited by the processes that start here
            futures = [pool.submit(_work, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        hint = "out of memory? Try fewer --workers; finished checkpoints are kept"
        raise KolmogramError(f"a worker process died ({hint})") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a block; those that the user has set stay."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _check_picklable(setup: Any) -> None:
    try:
        pickle.dumps(setup)
    except Exception as error:
        hint = "give the task by its file or module, or use one worker"
        raise KolmogramError(f"cannot be sent to worker processes: {error}; {hint}") from error


_job_function: Callable[[Any], Any] | None = None


def _start_worker(setup: Callable[[], Callable[[Any], Any]], threads: int) -> None:
    """Runs once in each worker process: shares the cores out, then prepares the job function."""
    global _job_function
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a traceback each
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    _job_function = setup()


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for the next job for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Any) -> Any:
    assert _job_function is not None
    return _job_function(job)
