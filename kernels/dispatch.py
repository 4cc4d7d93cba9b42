"""The face of the kernels, and the only place that chooses between triton, cpu and reference, and says why."""

import functools
import os
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import compress
from operator import not_
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.errors import BackendError
from . import cpu, loops, reference, selftest, spectra
from .reference import Moments, QuantizedHistogram, Rates

BACKENDS = ("triton", "cpu", "reference")
EXACT_BELOW = 1 << 17  # of fewer float32 or float16 weights a fine histogram is not precise to a millibit: sort them
CHUNK = 1 << 24  # weights in float64 at a time


class Backend(NamedTuple):
    """Which kernels run, and why these."""

    name: str  # triton, cpu or reference
    reason: str


class QuantizedEntropy(NamedTuple):
    """`Rates` of one tensor: each (S,) float64, NaN where a step cannot be answered."""

    entropy_bits: Tensor
    mse: Tensor
    zero_fraction: Tensor
    symbols: Tensor


def choose_backend(device: torch.device | str | None = None, requested: str | None = None) -> Backend:
    """The backend for tensors on `device` (default: the CPU).

    `requested`, else the environment variable KOLMOGRAM_BACKEND, is obeyed, or refused with BackendError.
    """
    device = torch.device(device or "cpu")
    requested = requested or os.environ.get("KOLMOGRAM_BACKEND") or None
    if requested not in (None, *BACKENDS):
        raise BackendError(f"unknown backend {requested!r}: choose one of {', '.join(BACKENDS)}")
    if requested in ("cpu", "reference"):
        return Backend(requested, "asked for")
    if requested is None and device.type == "cpu":
        return Backend("cpu", "weights on the CPU")
    try:
        reason = selftest.counters_in(device)[1]
    except BackendError as error:
        if requested:
            raise BackendError(f"backend triton was asked for, but {error}; ask for cpu, reference or none") from None
        return Backend("reference", f"plain PyTorch on {device}: {error}")
    return Backend("triton", f"{'asked for' if requested else f'weights on {device}'}; {reason}")


def moments(tensors: Sequence[Tensor], backend: str | None = None) -> list[Moments]:
    """Of each tensor: count, mean, standard deviation, largest magnitude, Frobenius norm of the finite entries.

    In float64.
    """
    found: dict[int, Moments] = {}
    for name, rows, group in _groups(map(_real, tensors), backend):
        found |= dict(zip(rows, _MOMENTS[name](group), strict=True))
    return [found[row] for row in range(len(tensors))]


def _moments_plainly(tensors: Sequence[Tensor]) -> list[Moments]:
    return [functools.reduce(_merge, map(reference.moments, w.reshape(-1).split(CHUNK))) for w in tensors]


def _moments_by_triton(tensors: Sequence[Tensor]) -> list[Moments]:
    from .moments import moments as launch
    from .shares import ELEMENTS

    tensors = [w.to(torch.float32) if w.dtype == torch.float64 else w for w in tensors]
    return launch([_readable(w, ELEMENTS, torch.float32) for w in tensors], selftest.programs(tensors[0].device))


_MOMENTS = {
    "cpu": lambda tensors: [cpu.moments(w) for w in tensors],
    "reference": _moments_plainly,
    "triton": _moments_by_triton,
}


def _merge(a: Moments, b: Moments) -> Moments:
    if not (a.count and b.count):
        full = a if a.count else b
        return Moments(full.count, a.nonfinite + b.nonfinite, full.mean, full.std, full.abs_max, full.frobenius)
    count, mean, spread, abs_max, energy = loops.merge_moments(
        *((m.count, m.mean, m.count * m.std**2, m.abs_max, m.frobenius**2) for m in (a, b))
    )
    return Moments(count, a.nonfinite + b.nonfinite, mean, (spread / count) ** 0.5, abs_max, energy**0.5)


def _groups(tensors: Iterable[Tensor], backend: str | None) -> Iterator[tuple[str, list[int], list[Tensor]]]:
    """Backend, places and tensors of those that one launch can take: of one device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = defaultdict(dict)
    for row, tensor in enumerate(tensors):
        groups[tensor.device, tensor.dtype][row] = tensor
    for (device, _), group in groups.items():
        yield choose_backend(device, backend).name, list(group), list(group.values())


@dataclass(frozen=True)
class _Counted:
    """Fine histograms of tensors of one kind."""

    counts: Tensor  # (t, KEYS, 2) int64
    bases: Tensor  # (t,) int32
    atoms: int
    by_triton: bool = False

    def rates(self, steps: Tensor) -> Tensor:
        """(t, S, 4) float64 at steps (t, S); on the device of the counts."""
        if self.by_triton:
            from .rates import fine_rates

            return fine_rates(self.counts, self.bases, self.atoms, steps)
        each = zip(self.counts, self.bases.tolist(), steps, strict=True)
        return torch.stack([cpu.fine_rates(counts, base, self.atoms, s) for counts, base, s in each])


@dataclass(frozen=True)
class _Kept:
    """Tensors of one kind, too small for a histogram."""

    weights: list[Tensor]
    by_triton: bool = False

    def rates(self, steps: Tensor) -> Tensor:
        """(t, S, 4) float64 at steps (t, S)."""
        if not self.by_triton:
            return torch.stack([cpu.exact_rates(w, s) for w, s in zip(self.weights, steps, strict=True)])
        from .exact_rates import exact_rates

        found = exact_rates([_countable(w) for w in self.weights], steps).cpu()
        for row in torch.nonzero(found[..., 0].isnan().any(1)).flatten().tolist():
            found[row] = cpu.exact_rates(self.weights[row], steps[row])  # more symbols than there are counters
        return found


class FineHistogram:
    """All that T tensors' rates at any step need; from one pass over the weights.

    Float32 and float16 tensors of fewer than EXACT_BELOW weights are kept as they are.
    """

    def __init__(self, parts: Sequence[tuple[list[int], _Counted | _Kept]]) -> None:
        self._parts = parts  # with their places among all tensors

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self._parts)

    def rates(self, steps: Tensor | Sequence[float]) -> Rates:
        """`Rates` (T, S) at steps (S,), the same for all tensors, or (T, S). Only the results leave the device."""
        steps = torch.as_tensor(steps, dtype=torch.float64)
        steps = steps.expand(len(self), -1) if steps.ndim == 1 else steps
        results = [(rows, part.rates(steps[rows])) for rows, part in self._parts]
        out = torch.empty(*steps.shape, 4, dtype=torch.float64)
        for rows, values in results:
            out[rows] = values.cpu()
        return Rates(*out.unbind(-1))


def fine_histogram(tensors: Sequence[Tensor], backend: str | None = None) -> FineHistogram:
    """One pass over the weights of every tensor, from which all rates follow."""
    parts: list[tuple[list[int], _Counted | _Kept]] = []
    for name, rows, group in _groups(map(_real, tensors), backend):
        large = [reference.key_atoms(w.dtype) == 1 or w.numel() >= EXACT_BELOW for w in group]
        counted, kept = (list(compress(group, chosen)) for chosen in (large, map(not_, large)))
        if counted:
            parts.append((list(compress(rows, large)), _COUNTING[name](counted)))
        if kept:
            by_triton = name == "triton" and selftest.counters_in(kept[0].device)[0]
            parts.append((list(compress(rows, map(not_, large))), _Kept(kept, by_triton)))
    return FineHistogram(parts)


def _count_on_cpu(tensors: Sequence[Tensor]) -> _Counted:
    counts, bases = zip(*(cpu.fine_histogram(w) for w in tensors), strict=True)
    return _counted(torch.stack(counts), bases, tensors)


def _count_plainly(tensors: Sequence[Tensor]) -> _Counted:
    bases = [reference.base_key(m.abs_max) for m in _moments_plainly(tensors)]
    counts = [reference.fine_histogram(w, base).cpu() for w, base in zip(tensors, bases, strict=True)]
    return _counted(torch.stack(counts), bases, tensors)


def _count_by_triton(tensors: Sequence[Tensor]) -> _Counted:
    """All tensors in one launch with the default window; those that do not fit it again, with their own."""
    from .fine_histogram import fine_histogram as launch

    device, atoms = tensors[0].device, reference.key_atoms(tensors[0].dtype)
    run = functools.partial(launch, programs=selftest.programs(device), shared=selftest.counters_in(device)[0])
    weights = [_countable(w) for w in tensors]
    bases = torch.full((len(weights),), reference.DEFAULT_BASE, dtype=torch.int32)
    counts = run(weights, bases)
    above = counts[:, reference.WINDOW + 1 :].sum((1, 2))
    upper = counts[:, reference.KEYS // 2 : reference.WINDOW + 1].sum((1, 2))
    doubtful = torch.nonzero((above > 0) | (upper == 0)).flatten().tolist()
    for i, m in zip(doubtful, _moments_by_triton([weights[i] for i in doubtful]) if doubtful else (), strict=True):
        bases[i] = reference.base_key(m.abs_max)
    moved = [i for i in doubtful if bases[i] != reference.DEFAULT_BASE]
    if moved:
        counts[moved] = run([weights[i] for i in moved], bases[moved])
    return _Counted(counts, bases, atoms, by_triton=True)


_COUNTING = {"cpu": _count_on_cpu, "reference": _count_plainly, "triton": _count_by_triton}


def _counted(counts: Tensor, bases: Sequence[int], tensors: Sequence[Tensor]) -> _Counted:
    return _Counted(counts, torch.tensor(bases, dtype=torch.int32), reference.key_atoms(tensors[0].dtype))


def quantized_entropy(weights: Tensor, steps: Tensor | Sequence[float], backend: str | None = None) -> QuantizedEntropy:
    """Entropy, squared error, zeros and symbols of one tensor quantised at each step: four (S,) float64.

    weights: any shape and real dtype; steps: (S,), positive. Exact for bfloat16 and for fewer than EXACT_BELOW weights;
    otherwise within a millibit and 1e-3 of the squared error (docs/kernels.md has the measured figures).
    """
    steps = torch.as_tensor(steps, dtype=torch.float64).reshape(-1)
    if choose_backend(weights.device, backend).name == "reference":
        return QuantizedEntropy(*(column[0] for column in reference.rates(_real(weights), steps)))
    return QuantizedEntropy(*(column[0] for column in fine_histogram([weights], backend).rates(steps)))


def quantize_histogram(weights: Tensor, step: float | Tensor, backend: str | None = None) -> QuantizedHistogram:
    """Exact counts of every symbol at one step (see `quantize_dequantize`), and the squared error."""
    return _quantize(weights, step, False, backend)[1]


def quantize_dequantize(
    weights: Tensor, step: float | Tensor, backend: str | None = None
) -> tuple[Tensor, QuantizedHistogram]:
    """ŵ = qΔ in the dtype of `weights`, and the histogram of q, in one pass.

    step: one, or for weights (m, n) one per row (m, 1) or per column (1, n).
    """
    return _quantize(weights, step, True, backend)


def _quantize(
    weights: Tensor, step: float | Tensor, write: bool, backend: str | None
) -> tuple[Tensor, QuantizedHistogram]:
    weights, (steps, axis) = _real(weights), _steps(weights, step)
    name = choose_backend(weights.device, backend).name
    if name == "cpu":
        return cpu.quantize_dequantize(weights, steps, write)
    if name == "reference":
        return reference.quantize_dequantize(weights, steps)
    from .quantize import quantize

    shared, programs = selftest.counters_in(weights.device)[0], selftest.programs(weights.device)
    held, histogram = quantize(_countable(weights), steps.to(weights.device), axis, write, programs, shared)
    return held.to(weights.dtype).view(weights.shape), histogram


def _steps(weights: Tensor, step: float | Tensor) -> tuple[Tensor, int]:
    """The steps as float32, and the axis along which they change: 0, 1, or -1 for a single one."""
    steps = torch.as_tensor(step, dtype=torch.float64).to(torch.float32)
    if not bool(((steps > 0) & (1 / steps < torch.inf) & (steps < torch.inf)).all()):
        raise ValueError("a quantisation step must be positive and finite, in float32, and so must its reciprocal")
    if steps.numel() == 1:
        return steps.reshape(()), -1
    if weights.ndim == 2:
        for axis, shape in enumerate(((weights.shape[0], 1), (1, weights.shape[1]))):
            if steps.shape == shape:
                return steps, axis
    raise ValueError(f"steps {tuple(steps.shape)} for weights {tuple(weights.shape)}: one, or one per row or column")


def singular_values(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Of each matrix (m, n): (min(m, n),) float64 on the CPU, descending; equal shapes are done together."""
    return spectra.singular_values([_real(m) for m in matrices])


def proton(path: str | Path, device: torch.device) -> AbstractContextManager[None]:
    """Record all Triton kernels of a `with` block into a file; BackendError where that cannot be done."""
    from .proton import session

    return session(Path(path), device)


def _real(weights: Tensor) -> Tensor:
    if weights.is_complex():
        raise TypeError(f"weights must be real, these are {weights.dtype}: pass real and imaginary parts")
    return weights.detach()


def _countable(weights: Tensor) -> Tensor:
    """Contiguous, in a dtype that the counting kernels read."""
    return _readable(weights, (torch.float32, torch.float16, torch.bfloat16), torch.float32)


def _readable(weights: Tensor, dtypes: Container[torch.dtype], otherwise: torch.dtype) -> Tensor:
    return (weights if weights.dtype in dtypes else weights.to(otherwise)).contiguous()
