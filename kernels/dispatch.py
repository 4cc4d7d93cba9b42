"""The face of the kernels, and the only place that chooses between triton, cpu and reference, and says why."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.errors import BackendError
from . import cpu, reference, spectra
from .reference import Moments, QuantizedHistogram, Rates

BACKENDS = ("triton", "cpu", "reference")
EXACT_BELOW = 1 << 17  # a fine histogram of fewer float32 or float16 weights is not precise to a millibit; sort them


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
    if requested is not None:
        return _requested(requested, device)
    if device.type == "cpu":
        return Backend("cpu", "weights on the CPU: numba kernels")
    obstacle = _triton_obstacle(device)
    if obstacle is None:
        return Backend("triton", f"weights on {device}: Triton kernels, self-test passed")
    return Backend("reference", f"weights on {device}, but {obstacle}: plain PyTorch")


def _requested(name: str, device: torch.device) -> Backend:
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "triton" and (obstacle := _triton_obstacle(device)):
        raise BackendError(f"the triton backend was asked for, but {obstacle}; choose cpu or reference, or none")
    return Backend(name, "asked for")


def _triton_obstacle(device: torch.device) -> str | None:
    """Why Triton kernels cannot run there, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    return "not built yet" if device.type == "cuda" else "there is no GPU in it"


def moments(weights: Tensor, backend: str | None = None) -> Moments:
    """Count, mean, standard deviation, largest magnitude, Frobenius norm of the finite entries, in float64."""
    module = cpu if choose_backend(weights.device, backend).name == "cpu" else reference
    return module.moments(_real(weights))


class FineHistogram:
    """Everything about T tensors that their rates at any step need; from one pass over the weights.

    Tensors of less than EXACT_BELOW weights are kept whole, as a histogram would not be precise to a millibit.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, int, int] | Tensor]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    def rates(self, steps: Tensor | Sequence[float]) -> Rates:
        """`Rates` (T, S) at steps (S,), the same for all tensors, or (T, S)."""
        steps = torch.as_tensor(steps, dtype=torch.float64).broadcast_to(len(self), -1)
        rows = [
            cpu.exact_rates(part, s) if isinstance(part, Tensor) else cpu.fine_rates(*part, s)
            for part, s in zip(self._parts, steps, strict=True)
        ]
        return Rates(*(torch.cat(column) for column in zip(*rows, strict=True)))


def fine_histogram(tensors: Sequence[Tensor], backend: str | None = None) -> FineHistogram:
    """One pass over the weights of every tensor, from which all rates follow."""
    return FineHistogram([_fine_part(_real(t), choose_backend(t.device, backend)) for t in tensors])


def _fine_part(weights: Tensor, backend: Backend) -> tuple[Tensor, int, int] | Tensor:
    atoms = reference.key_atoms(weights.dtype)
    if atoms != 1 and weights.numel() < EXACT_BELOW:
        return weights
    if backend.name == "cpu":
        return *cpu.fine_histogram(weights), atoms
    base = reference.base_key(reference.moments(weights).abs_max)
    return reference.fine_histogram(weights, base).cpu(), base, atoms


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
    """Exact counts of every symbol at one step (or one step per row or column), and the squared error."""
    if choose_backend(weights.device, backend).name == "cpu":
        return cpu.quantize_dequantize(_real(weights), _step(step), write=False)[1]
    return reference.quantize_histogram(_real(weights), step)


def quantize_dequantize(
    weights: Tensor, step: float | Tensor, backend: str | None = None
) -> tuple[Tensor, QuantizedHistogram]:
    """ŵ = qΔ in the dtype of `weights`, and the histogram of q, in one pass. `step` broadcasts against `weights`."""
    if choose_backend(weights.device, backend).name == "cpu":
        return cpu.quantize_dequantize(_real(weights), _step(step), write=True)
    return reference.quantize_dequantize(_real(weights), step)


def singular_values(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Of each matrix (m, n): (min(m, n),) float64 on the CPU, descending; equal shapes are done together."""
    return spectra.singular_values(matrices)


def _real(weights: Tensor) -> Tensor:
    if weights.is_complex():
        raise TypeError(f"complex weights cannot be quantised: {weights.dtype}; take their real and imaginary parts")
    return weights.detach()


def _step(step: float | Tensor) -> Tensor:
    return torch.as_tensor(step, dtype=torch.float64)
