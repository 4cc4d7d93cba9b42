"""Spectral entropy of matrices together with its gradient, in closed form.

H(W) = −Σ pᵢ ln pᵢ with pᵢ = σᵢᵏ / Σσᵏ, in nats; k = 1 is the paper's (arXiv 2412.09810), k = 2 weighs energies. With
W = U diag(σ) Vᵀ,

    dH/dW = U diag(dH/dσ) Vᵀ = M W,    M = U diag(dH/dσᵢ / σᵢ) Uᵀ,    dH/dσᵢ = −k σᵢᵏ⁻¹ (ln pᵢ + H) / Σσᵏ

so that U, the eigenvectors of the Gram matrix of the shorter side, are all that is needed, and M, of that side's size,
stands for the whole gradient. `spectra` is exact. `quadratics` keeps M for later weights, where H ≈ ½⟨W, M W⟩ + const:
one matrix product in place of a decomposition. A direction of σ → 0 would be pulled with the same force at any
distance; there M is capped as if σ were a tenth of the mean, so that the pull fades as the direction vanishes and does
not shake it when M is some steps old (iteratively reweighted least squares does the same for the nuclear norm).

Nothing is differentiated through a decomposition, so equal singular values are no special case. The Gram matrix squares
the spectrum and is therefore formed in float64. Singular values below 2·10⁻⁷ σ₁ count as zero: float32 weights do not
define them. So do all of a matrix with σ₁ < 10⁻³⁶, where float32 becomes denormal. At σ = 0 the slope is infinite and
its direction undefined; the gradient there is taken as 0, because H has a minimum in that direction. So exact low rank
stays exact, all-zero and rank-one matrices have H = 0 and gradient 0, and nothing becomes NaN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.spectra import eigh

_BATCH_ELEMENTS = 2**22  # what is solved, and under FSDP gathered, at a time; a larger matrix goes alone
_RESOLUTION = 2e-7  # of σ/σ₁
_ZERO = 1e-36
_CAP = 0.1  # of the mean singular value


@dataclass(frozen=True)
class Quadratic:
    """H of one matrix (m, n) or (n, m), m ≤ n, near the weights it was made at: ½⟨W, M W⟩ + `constant`, in nats."""

    metric: Tensor  # M (m, m), in float32 or wider
    constant: Tensor  # () in M's dtype: an addition that changes types costs as much as a small product

    def __call__(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """H () in M's dtype, and dH/dW in the matrix's shape and dtype."""
        weights = matrix.to(self.metric.dtype)
        gradient = weights @ self.metric if matrix.shape[0] > matrix.shape[1] else self.metric @ weights
        entropy = self.constant.add(gradient.flatten().dot(weights.flatten()), alpha=0.5)
        return entropy, _narrow(gradient, matrix.dtype)


def batches_by_shape(shapes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of matrices that can be solved together: one shape up to transposition, up to 4 M elements."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (m, n) in enumerate(shapes):
        groups.setdefault((min(m, n), max(m, n)), []).append(i)
    for (m, n), members in groups.items():
        size = max(1, _BATCH_ELEMENTS // max(1, m * n))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def spectra(matrices: Sequence[Tensor], power: int = 1) -> tuple[Tensor, list[Tensor]]:
    """H (b,) float64 and dH/dW, in each one's shape and dtype, of matrices (m, n) or (n, m) of one batch.

    Gradients that overflow a narrower dtype, such as float16, are cut to its largest number. Raises
    torch.linalg.LinAlgError if a matrix is not finite.
    """
    solved = _solve(_stack(matrices), power)
    slopes = torch.where(solved.sigma > 0, solved.slopes(solved.sigma), 0) / solved.largest
    gradients = solved.basis.mT @ (solved.rows * slopes[:, :, None])
    return solved.entropies, [
        _narrow(gradient.mT if matrix.shape[0] > matrix.shape[1] else gradient, matrix.dtype)
        for gradient, matrix in zip(gradients, matrices, strict=True)
    ]


def quadratics(matrices: Sequence[Tensor], power: int = 1) -> list[Quadratic]:
    """What stands for H near the matrices (m, n) or (n, m) of one batch; raises like `spectra`.

    M grows as 1/σ₁² and is cut to what float32 holds, so that float32 matrices below 10⁻¹⁵ are pulled too weakly.
    """
    solved = _solve(_stack(matrices), power)
    cap = _CAP * solved.sigma.mean(1, keepdim=True)
    slopes = torch.where(cap > 0, solved.slopes(torch.maximum(solved.sigma, cap)), 0)
    metrics = solved.basis.mT @ (solved.basis * (slopes / solved.largest**2)[:, :, None])
    constants = solved.entropies - 0.5 * (slopes * solved.sigma**2).sum(1)
    dtypes = [torch.promote_types(torch.float32, matrix.dtype) for matrix in matrices]
    return [
        Quadratic(_narrow(metric, dtype), constant.to(dtype))
        for dtype, metric, constant in zip(dtypes, metrics, constants, strict=True)
    ]


@dataclass(frozen=True)
class _Solved:
    """Matrices (b, m, n), m ≤ n: Uᵀ (b, m, m), UᵀW/σ₁, σ/σ₁ (b, m), σ₁ (b, 1) (1 if it vanishes), H (b,)."""

    basis: Tensor
    rows: Tensor
    sigma: Tensor
    largest: Tensor
    entropies: Tensor
    power: int

    def slopes(self, sigma: Tensor) -> Tensor:
        """dH/dσᵢ / σᵢ (b, m), in units of 1/σ₁², as it would be if σᵢ/σ₁ were `sigma`; meaningless at 0."""
        total = (self.sigma**self.power).sum(1, keepdim=True).clamp_min(_ZERO)
        surprise = (sigma**self.power / total).log() + self.entropies[:, None]
        return -self.power * sigma ** (self.power - 2) * surprise / total


def _solve(stack: Tensor, power: int) -> _Solved:
    eigenvalues, vectors = eigh(stack @ stack.mT)
    largest = eigenvalues[:, -1:].clamp_min(0).sqrt()
    largest = torch.where(largest > _ZERO, largest, 1)
    rows = (vectors.mT / largest[:, :, None]) @ stack
    sigma = torch.linalg.vector_norm(rows, dim=2)
    sigma = torch.where(sigma > _RESOLUTION, sigma, 0)
    mass = sigma**power
    p = mass / mass.sum(1, keepdim=True).clamp_min(_ZERO)
    return _Solved(vectors.mT, rows, sigma, largest, -torch.xlogy(p, p).sum(1), power)


def _stack(matrices: Sequence[Tensor]) -> Tensor:
    """Float64 (b, m, n), m ≤ n."""
    return torch.stack([(m.mT if m.shape[0] > m.shape[1] else m).to(torch.float64) for m in matrices])


def _narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient.dtype == dtype:
        return gradient
    limit = torch.finfo(dtype).max
    return gradient.clamp(-limit, limit).to(dtype)
