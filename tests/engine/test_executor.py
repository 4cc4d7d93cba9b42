import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from kolmogram.engine import executor
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.executor import run_local


def make_square():
    pid = os.getpid()
    return lambda n: (n, n * n, pid)


def make_thread_counts():
    import torch

    return lambda n: (n, torch.get_num_threads(), os.environ.get("OPENBLAS_NUM_THREADS"))


def make_dying():
    return lambda n: os._exit(1)


def test_same_outcomes_for_any_number_of_workers():
    alone = {outcome[:2] for outcome in run_local(make_square, range(5))}
    shared = list(run_local(make_square, range(5), workers=2))
    assert {outcome[:2] for outcome in shared} == alone
    assert os.getpid() not in {pid for *_, pid in shared}


def test_workers_share_the_cores_out(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    share = max(1, os.cpu_count() // 2)
    outcomes = sorted(run_local(make_thread_counts, range(2), workers=2))
    assert outcomes == [(0, share, str(share)), (1, share, str(share))]
    assert dict(os.environ) == before


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with executor._environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("7", "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_one_worker_stays_in_this_process_and_in_order():
    assert list(run_local(make_square, [3, 1])) == [(3, 9, os.getpid()), (1, 1, os.getpid())]


def test_jobs_are_done_as_they_are_asked_for():
    done = []
    outcomes = run_local(lambda: done.append, [1, 2, 3])
    next(outcomes)
    assert done == [1]


def test_jobs_that_nobody_waits_for_are_not_begun(monkeypatch):
    begun, go_on = [], Event()

    def work(n):
        begun.append(n)
        if n:
            go_on.wait()

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, *_):
            super().__init__(workers)

        def shutdown(self, **options):
            super().shutdown(wait=False, **options)
            go_on.set()
            super().shutdown()

    monkeypatch.setattr(executor, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(executor, "_work", work)
    outcomes = run_local(make_square, range(60), workers=2)
    next(outcomes)
    outcomes.close()  # as by Ctrl-C
    assert set(begun) <= {0, 1, 2}


def test_setup_that_cannot_travel_is_refused_with_a_remedy():
    with pytest.raises(KolmogramError, match="use one worker"):
        list(run_local(lambda: print, [1, 2], workers=2))


ORPHANS = """
import os, sys, time
from kolmogram.engine.executor import run_local

def setup():
    def work(n):
        os.write(1, f"{os.getpid()}\\n".encode())  # at once: two workers write to one pipe
        time.sleep(600)
    return work

if __name__ == "__main__":
    list(run_local(setup, range(2), workers=2))
"""


def is_alive(pid):
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_process_end(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    assert all(map(is_alive, workers))
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_worker_that_dies_is_told():
    with pytest.raises(KolmogramError, match="worker process died"):
        list(run_local(make_dying, [1, 2], workers=2))
