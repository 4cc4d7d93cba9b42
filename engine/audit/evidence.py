"""What the audit keeps of a checkpoint: enough to compare it with all others without reading it again."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...analyzers.spectrum import as_matrix
from ...kernels import dispatch
from ..checkpoints import Checkpoint
from ..statistics import measurable

VERSION = 1
SAMPLES = 256  # values kept of each tensor, evenly spaced
SMALLEST_SIDE, LARGEST_SIDE = 32, 1024  # of matrices that are held against noise; of larger ones evenly spaced rows
LARGEST = 3e38  # that float32 holds, nearly
ITERATIONS = 30  # of the power method: enough for what stands out of noise


class TensorEvidence(NamedTuple):
    """One tensor's part of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str
    """Of its very bytes, 32 hex digits."""
    constant: bool
    """All entries equal: zeros and ones are the same in every network."""
    nonfinite: int
    excess: float
    """Largest singular value over that of as large a matrix of noise with these entries; NaN where none can be told."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A checkpoint's tensors in file order, and `samples` of each that holds weights (float32)."""

    checkpoint: str
    step: int | None
    tensors: tuple[TensorEvidence, ...]
    samples: Mapping[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """For the store."""
        rows = json.dumps([tensor._asdict() for tensor in self.tensors])
        names = [tensor.name for tensor in self.tensors if tensor.name in self.samples]
        buffer = io.BytesIO()
        lengths = np.array([len(self.samples[name]) for name in names], np.int64)
        values = np.concatenate([self.samples[name] for name in names] or [np.zeros(0, np.float32)])
        np.savez(buffer, rows=np.frombuffer(rows.encode(), np.uint8), lengths=lengths, values=values)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, checkpoint: Checkpoint, data: bytes) -> "Evidence":
        """What `to_bytes` wrote, of the same checkpoint."""
        with np.load(io.BytesIO(data)) as arrays:
            rows, lengths, values = json.loads(arrays["rows"].tobytes()), arrays["lengths"], arrays["values"]
        tensors = tuple(TensorEvidence(**{**row, "shape": tuple(row["shape"])}) for row in rows)
        parts = np.split(values, np.cumsum(lengths)[:-1])
        names = [tensor.name for tensor in tensors if _holds_weights(tensor.dtype)]
        return cls(checkpoint.name, checkpoint.step, tensors, dict(zip(names, parts, strict=False)))


def gather(checkpoint: Checkpoint) -> Evidence:
    """Read a checkpoint, one tensor at a time."""
    tensors, samples = [], {}
    for name, tensor in checkpoint.items():
        tensors.append(_of_tensor(name, tensor))
        if measurable(tensor):
            samples[name] = _sampled(tensor)
        del tensor
    return Evidence(checkpoint.name, checkpoint.step, tuple(tensors), samples)


def _of_tensor(name: str, tensor: Tensor) -> TensorEvidence:
    entries = tensor.contiguous().reshape(-1, 1).view(torch.uint8).numpy()  # [n, bytes of each]
    digest = hashlib.blake2b(entries.data, digest_size=16).hexdigest()
    few = entries[:: max(1, len(entries) // SAMPLES)]  # they tell nearly always, without as many bytes again
    constant = all(bool((part == entries[:1]).all()) for part in (few, entries))
    nonfinite, excess = 0, math.nan
    if measurable(tensor) and tensor.numel():
        nonfinite = dispatch.moments([tensor])[0].nonfinite
        excess = math.nan if nonfinite or constant else _excess(tensor)
    return TensorEvidence(name, tuple(tensor.shape), _name_of(tensor.dtype), digest, constant, nonfinite, excess)


def _sampled(tensor: Tensor) -> NDArray[np.float32]:
    flat = tensor.reshape(-1)
    places = torch.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat)), dtype=torch.float64).long()
    return flat[places].double().clamp_(-LARGEST, LARGEST).float().numpy()


def _excess(tensor: Tensor) -> float:
    """Independent entries of standard deviation s have no singular value above s(√m + √n) (Bai & Yin 1993)."""
    if tensor.ndim < 2 or min((matrix := as_matrix(tensor)).shape) < SMALLEST_SIDE:
        return math.nan
    strides = [math.ceil(side / LARGEST_SIDE) for side in matrix.shape]
    part = matrix[:: strides[0], :: strides[1]].float()
    edge = float(part.square().mean().sqrt()) * sum(math.sqrt(side) for side in part.shape)
    return _largest_singular_value(part) / edge if edge > 0 else math.nan


def _largest_singular_value(matrix: Tensor) -> float:
    vector = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    for _ in range(ITERATIONS):
        vector = matrix.T @ (matrix @ (vector / vector.norm()))
    return float((matrix @ (vector / vector.norm())).norm())


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _holds_weights(dtype: str) -> bool:
    return getattr(torch, dtype).is_floating_point
