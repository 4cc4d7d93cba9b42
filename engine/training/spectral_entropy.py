"""Spectral entropy of matrices together with its gradient, from one eigendecomposition of the smaller Gram matrix.

H(W) = −Σ pᵢ ln pᵢ with pᵢ = σᵢᵏ / Σσᵏ, in nats; k = 1 is the paper's (arXiv 2412.09810), k = 2 weighs energies. With
W = U diag(σ) Vᵀ,

    dH/dW = U diag(dH/dσ) Vᵀ,    dH/dσᵢ = −k σᵢᵏ⁻¹ (ln pᵢ + H) / Σσᵏ

and since WWᵀ = U diag(σ²) Uᵀ this is U diag(dH/dσ / σ) Uᵀ W: only the shorter side is ever decomposed, and equal
singular values are no special case (differentiating through eigh would divide by their differences).

The Gram matrix squares the spectrum, so it is formed in float64: singular values down to about 10⁻⁷ σ₁ are resolved,
which is as fine as float32 weights define them. Smaller ones count as zero. At σ = 0 the slope of −p ln p is infinite
and its direction undefined; the gradient there is taken as 0, because H has a minimum in that direction. So exact low
rank stays exact, all-zero and rank-one matrices have H = 0 and gradient 0, and nothing becomes NaN.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

_BATCH_ELEMENTS = 2**22  # what is solved, and under FSDP gathered, at a time; a larger matrix goes alone


def batches_by_shape(shapes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of matrices that can be solved together: one shape up to transposition, up to 4 M elements."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (m, n) in enumerate(shapes):
        groups.setdefault((min(m, n), max(m, n)), []).append(i)
    for (m, n), members in groups.items():
        size = max(1, _BATCH_ELEMENTS // max(1, m * n))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def spectral_entropies(matrices: Sequence[Tensor], power: int = 1) -> tuple[Tensor, list[Tensor]]:
    """H of each matrix, (b,) float64, and dH/dW of each, for matrices (m, n) or (n, m) of one batch, any float dtype.

    Gradients have the shape and dtype of their matrix; where they overflow the dtype, as at denormal matrices, they are
    cut to its largest number. Raises torch.linalg.LinAlgError if a matrix is not finite.
    """
    wide = [_wide(matrix) for matrix in matrices]
    solved = _solve_in_threads(wide, power) if wide[0].device.type == "cpu" else [_solve(torch.stack(wide), power)]
    gradients = [gradient for _, stack in solved for gradient in stack]
    narrow = [_narrow(gradient, like=matrix) for gradient, matrix in zip(gradients, matrices, strict=True)]
    return torch.cat([entropies for entropies, _ in solved]), narrow


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _narrow(gradient: Tensor, like: Tensor) -> Tensor:
    limit = torch.finfo(like.dtype).max
    gradient = gradient.clamp_(-limit, limit).to(like.dtype)
    return gradient.mT if like.shape[0] > like.shape[1] else gradient


def _solve(stack: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """(b, m, n) of any float dtype with m ≤ n -> H (b,), dH/dW (b, m, n), both float64."""
    stack = stack.double()
    scale = stack.abs().amax((1, 2), keepdim=True)
    scale = torch.where(scale > 0, scale, 1)  # H does not depend on it; squares can neither overflow nor vanish
    w = stack / scale
    squares, u = torch.linalg.eigh(w @ w.mT)
    nonzero = squares > torch.finfo(squares.dtype).eps * squares.shape[-1] * squares[:, -1:]
    squares = torch.where(nonzero, squares, 1)
    mass = nonzero * squares ** (power / 2)
    total = mass.sum(1, keepdim=True)
    p = mass / torch.where(total > 0, total, 1)
    entropy = -torch.xlogy(p, p).sum(1, keepdim=True)
    slope_over_sigma = torch.where(nonzero, -power * mass / squares * (p.log() + entropy) / total, 0)
    return entropy[:, 0], (u * (slope_over_sigma / scale[:, 0])[:, None]) @ u.mT @ w


def _solve_in_threads(matrices: list[Tensor], power: int) -> list[tuple[Tensor, Tensor]]:
    """One matrix at a time, so that it stays in the cache, and each on one core: LAPACK's own threads gain less."""
    threads = min(torch.get_num_threads(), len(matrices))
    each = map if threads == 1 else _pool(threads).map
    return list(each(lambda matrix: _solve(matrix[None], power), matrices))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch itself stays single-threaded."""
    ours = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    ready = [pool.submit(time.sleep, 0.01) for _ in range(threads)]
    wait(ready)
    torch.set_num_threads(ours)
    return pool
