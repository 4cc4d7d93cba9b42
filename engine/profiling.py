"""Where the time goes: kernels against this device's own limits, and the stages of an `analyze` run.

Product code carries no instrumentation: while profiling, and only then, the functions in SEAMS are wrapped.
"""

import json
import platform
import resource
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, record_function

from ..kernels import dispatch
from .devices import usable
from .files import atomic_path
from .provenance import package_versions

SEAMS = {
    "read": ["engine.checkpoints.checkpoint:Checkpoint.tensor", "engine.checkpoints.checkpoint:Unread.fill"],
    "copy": ["engine.statistics:_read", "engine.streaming:Upload._send", "engine.measurement:as_parameter"],
    "histograms": ["kernels.dispatch:moments", "kernels.dispatch:fine_histogram"],
    "rates": ["kernels.dispatch:FineHistogram.rates"],
    "spectra": ["kernels.dispatch:singular_values"],
    "search": ["engine.coarse:complexity_curve"],
    "loss": ["engine.coarse.loss:Loss._value"],
    "coding": ["engine.coarse.search:encode"],
}
"""Stage of `analyze` → the functions in which it happens. What a stage inside another takes is not the outer one's.
"""

RELATIVE_STEPS = [2.0 ** (2 - i / 2) for i in range(16)]  # of σ, as many as the one-pass idea is judged by
REPEATS = 7
ENOUGH_SECONDS = 1.0


@dataclass
class Stages:
    """Seconds that each stage took itself. Stages of different threads overlap."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _thread: threading.local = field(default_factory=threading.local)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, as a named range of a trace too."""
        opened: list[list[float]] = self._thread.__dict__.setdefault("opened", [])
        inner = [0.0]
        opened.append(inner)
        start = time.perf_counter()
        try:
            with record_function(name):
                yield
        finally:
            took = time.perf_counter() - start
            opened.pop()
            self.seconds[name] += took - inner[0]
            if opened:
                opened[-1][0] += took


@contextmanager
def recording() -> Iterator[Stages]:
    """Stages of everything that runs in this process in the meantime."""
    stages, undo = Stages(), []
    try:
        for name, places in SEAMS.items():
            for place in places:
                owner, attribute = _resolve(place)
                original = getattr(owner, attribute)
                undo.append((owner, attribute, original))
                setattr(owner, attribute, _staged(stages, name, original))
        yield stages
    finally:
        for owner, attribute, original in undo:
            setattr(owner, attribute, original)


def _resolve(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    owner: Any = import_module(f"...{module}", __name__)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, attribute


def _staged(stages: Stages, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with stages.stage(name):
            return function(*args, **kwargs)

    return wrapper


@dataclass(frozen=True)
class Measurement:
    """One operation on weights of one size: the median of several runs."""

    operation: str
    dtype: str
    weights: int
    milliseconds: float
    bytes_moved: int  # read and written, at least

    @property
    def gigabytes_per_second(self) -> float:
        return self.bytes_moved / self.milliseconds / 1e6


@dataclass(frozen=True)
class ProfileReport:
    """What `kolmogram profile` found out about a device."""

    device: str
    backend: str
    backend_reason: str
    versions: dict[str, str | None]
    threads: int
    ceilings: dict[str, float]  # GB/s; shared_increments: 1e9 per second
    kernels: list[Measurement]
    peak_memory_bytes: int  # of the GPU, or of this process, so far
    stages: dict[str, float]  # seconds of an analyze run; empty without one
    run_peak_memory_bytes: int  # the same in that run

    def table(self) -> list[dict[str, Any]]:
        """One row per kernel and size; `of_ceiling` is the share of the measured read bandwidth."""
        return [
            {
                "operation": m.operation,
                "dtype": m.dtype,
                "weights": m.weights,
                "ms": m.milliseconds,
                "GB/s": m.gigabytes_per_second,
                "of_ceiling": m.gigabytes_per_second / self.ceilings["read"],
            }
            for m in self.kernels
        ]

    def summary(self) -> str:
        """Device, backend and why, memory: one line."""
        run = f", {self.run_peak_memory_bytes / 1e6:.0f} MB in the run" if self.stages else ""
        memory = f"peak memory {self.peak_memory_bytes / 1e6:.0f} MB{run}"
        return f"{self.device}: {self.backend} ({self.backend_reason}); {memory}"

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps({**asdict(self), "kernels": self.table()}, indent=1)


def profile(
    sizes: Sequence[int] = (10**5, 10**6, 10**7),
    device: str | torch.device = "cpu",
    run: str | Path | None = None,
    task: Any = None,
    proton: str | Path | None = None,
    trace: str | Path | None = None,
) -> ProfileReport:
    """Measure the device's own limits, then each kernel and its usual replacements; and the stages of analysing `run`.

    sizes: numbers of weights. `proton`: a file for Triton's own profile of the kernels, on a GPU. `trace`: one for a
    Chrome trace of analysing the run, which takes longer under torch's profiler.
    """
    device = torch.device(usable(str(device)))
    backend = dispatch.choose_backend(device)
    _forget_peak_memory(device)
    with dispatch.proton(proton, device) if proton else nullcontext():
        ceilings = _ceilings(max(sizes), device)
        kernels = [
            Measurement(name, str(dtype).removeprefix("torch."), n, 1e3 * seconds(call, device), moved)
            for n in sizes
            for dtype in (torch.float32, torch.bfloat16)
            for name, call, moved in _operations(n, dtype, device)
        ]
    peak = _peak_memory(device)
    _forget_peak_memory(device)
    stages = stages_of(run, task, str(device), trace) if run is not None else {}
    return ProfileReport(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        backend=backend.name,
        backend_reason=backend.reason,
        versions=package_versions(("torch", "triton", "numba", "numpy")),
        threads=torch.get_num_threads(),
        ceilings=ceilings,
        kernels=kernels,
        peak_memory_bytes=peak,
        stages=stages,
        run_peak_memory_bytes=_peak_memory(device) if stages else 0,
    )


def stages_of(run: str | Path, task: Any, device: str, trace: str | Path | None = None) -> dict[str, float]:
    """Seconds of each stage of analysing a run, under torch's profiler if there is a file for its trace."""
    from .analysis import analyze

    with _traced(trace) if trace else nullcontext():
        start = time.perf_counter()
        with recording() as stages:
            analyze(run, task, device=device)
        total = time.perf_counter() - start
    return {**stages.seconds, "other": max(0.0, total - sum(stages.seconds.values()))}


@contextmanager
def _traced(path: str | Path) -> Iterator[None]:
    """Write a Chrome trace of what runs in the meantime, with one named range per stage."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    every_thread = _ExperimentalConfig(profile_all_threads=True)  # what is read ahead is read in another one
    with torch.profiler.profile(activities=activities, experimental_config=every_thread) as profiler:
        yield
    with atomic_path(path) as temporary:
        profiler.export_chrome_trace(str(temporary))


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Median of up to REPEATS runs after a first one that compiles and warms up; fewer if they are long."""
    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
        if sum(taken[1:]) > ENOUGH_SECONDS:
            break
    return statistics.median(taken[1:])


def _ceilings(n: int, device: torch.device) -> dict[str, float]:
    """Bytes that this device copies and reads, by torch's own kernels, on n float32; and what shared counters take."""
    source = torch.zeros(n, device=device)
    target = torch.empty_like(source)
    limits = {
        "copy": 8 * n / seconds(lambda: target.copy_(source), device) / 1e9,
        "read": 4 * n / seconds(source.sum, device) / 1e9,
    }
    if device.type == "cuda" and dispatch.choose_backend(device).name == "triton":
        small = torch.randn(n, device=device).to(torch.bfloat16)
        limits["shared_increments"] = n / seconds(lambda: dispatch.fine_histogram([small]), device) / 1e9
    return limits


def _operations(n: int, dtype: torch.dtype, device: torch.device) -> list[tuple[str, Callable[[], Any], int]]:
    """Name, call, bytes moved at least."""
    w = (torch.randn(n, device=device, generator=torch.Generator(device).manual_seed(0)) * 0.02).to(dtype)
    steps = torch.tensor(RELATIVE_STEPS, dtype=torch.float64) * 0.02
    step, size = 0.02 / 4, w.nbytes

    def symbols() -> Tensor:
        return torch.round(w.float() / step).to(torch.int32)

    return [
        ("moments", lambda: dispatch.moments([w]), size),
        ("16 rates from one histogram", lambda: dispatch.fine_histogram([w]).rates(steps), size),
        ("quantize_histogram", lambda: dispatch.quantize_histogram(w, step), size),
        ("quantize_dequantize", lambda: dispatch.quantize_dequantize(w, step), 2 * size),
        ("torch.histc, 8192 bins", lambda: torch.histc(w.float(), 8192), size),
        ("round + torch.bincount, one step", lambda: torch.bincount(symbols().add_(1 << 12).clamp_(0, 1 << 13)), size),
        ("round + torch.unique, one step", lambda: torch.unique(symbols(), return_counts=True), size),
    ]


def _processor() -> str:
    return platform.processor() or platform.machine()


def _forget_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
