"""Singular values from the Gram matrix of the smaller side, in float64; by SVD if that is too coarse.

With unit roundoff u, an eigenvalue of AᵀA is off by O(u σ₁²), a singular value by O(u σ₁²/2σ): measured below 1e-5
relative for σ ≥ 1e-6 σ₁, a thousand times closer than a float32 SVD. A matrix with smaller ones is given to the SVD.

On the CPU, matrices are shared out among threads with one BLAS thread each; on a GPU, equal shapes are done together.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .threads import with_one_blas_thread_each

TAIL = 1e-6
SMALL = 256  # sides up to which threads win: a GPU takes one after the other, 1.6 ms for 128 × 128 on an H100
BATCH_BYTES = 256 << 20  # Gram matrices of one shape taken at a time on a GPU
ROWS, GPU_ROWS = 1024, 8192  # rows of a tall matrix in float64 at a time


def singular_values(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Of each matrix (m, n): (min(m, n),) float64 on the CPU, descending; all NaN where an entry is not finite."""
    here = sorted((i for i, m in enumerate(matrices) if m.device.type == "cpu"), key=lambda i: -matrices[i].numel())
    values = with_one_blas_thread_each(_on_cpu, (matrices[i] for i in here))
    found = dict(zip(here, map(torch.from_numpy, values), strict=True))
    by_shape = defaultdict(list)
    for i, matrix in enumerate(matrices):
        if i not in found:
            by_shape[matrix.shape].append(i)
    for shape, indices in by_shape.items():
        size = max(1, BATCH_BYTES // max(1, 8 * min(shape) ** 2))
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            found.update(zip(batch, _on_gpu([matrices[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(matrices))]


def eigh(stacks: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """`torch.linalg.eigh` of each stack (b, m, m) float64 of symmetric matrices, on its device; small ones, and several
    on the CPU, are shared out among threads.

    Raises torch.linalg.LinAlgError where an entry is not finite.
    """
    shared = [i for i, stack in enumerate(stacks) if _for_threads(stack)]
    if sum(len(stacks[i]) for i in shared) == 1:
        shared = []
    found = dict(zip(shared, _eigh_among_threads([stacks[i].cpu() for i in shared]), strict=True))
    pairs = [found.get(i) or torch.linalg.eigh(stack) for i, stack in enumerate(stacks)]
    return [(a.to(stack.device), b.to(stack.device)) for (a, b), stack in zip(pairs, stacks, strict=True)]


def _for_threads(stack: Tensor) -> bool:
    return stack.shape[-1] <= SMALL or (stack.is_cpu and len(stack) > 1)


def _eigh_among_threads(stacks: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The same for stacks on the CPU, a matrix a thread."""
    matrices = [matrix for stack in stacks for matrix in stack.numpy()]
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        raise torch.linalg.LinAlgError("eigh: an entry is not finite")  # pyright: ignore[reportPrivateImportUsage]
    solved = iter(with_one_blas_thread_each(np.linalg.eigh, matrices))
    found = []
    for stack in stacks:
        values, vectors = zip(*islice(solved, len(stack)), strict=True)
        found.append((torch.from_numpy(np.stack(values)), torch.from_numpy(np.stack(vectors))))
    return found


def _tall(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT


def _on_cpu(matrix: Tensor) -> NDArray[np.float64]:
    if not matrix.numel():
        return np.zeros(0)
    tall = _tall(matrix)
    gram = np.zeros((tall.shape[1], tall.shape[1]))
    for rows in tall.split(ROWS):
        a = rows.to(torch.float64).numpy()
        gram += a.T @ a  # NumPy sees the symmetry and does half the work; torch would not
    if not np.isfinite(gram).all():
        return np.full(len(gram), np.nan)
    values = np.sqrt(np.linalg.eigvalsh(gram)[::-1].clip(min=0))
    if values[-1] < TAIL * values[0]:
        return np.linalg.svd(tall.to(torch.float64).numpy(), compute_uv=False)
    return values


def _on_gpu(matrices: list[Tensor]) -> list[Tensor]:
    """The same, for matrices of one shape."""
    if not matrices[0].numel():
        return [torch.zeros(0, dtype=torch.float64) for _ in matrices]
    grams = torch.stack([_gram(_tall(m)) for m in matrices])
    finite = grams.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], grams, 0)).flip(-1).clamp(min=0).sqrt()
    values = torch.where(finite[:, None], values, torch.nan).cpu()
    tails = (values[:, -1] < TAIL * values[:, 0]).tolist()
    return [
        torch.linalg.svdvals(m.to(torch.float64)).cpu() if tail else v
        for m, v, tail in zip(matrices, values, tails, strict=True)
    ]


def _gram(tall: Tensor) -> Tensor:
    """AᵀA (n, n) float64 of A (m, n), m ≥ n, on its GPU."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for rows in tall.split(GPU_ROWS):
        wide = rows.to(torch.float64)
        gram.addmm_(wide.mT, wide)
    return gram
