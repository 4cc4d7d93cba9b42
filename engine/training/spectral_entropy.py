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
from itertools import chain, groupby

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.spectra import eigh

_BATCH_ELEMENTS = 2**22  # what is solved, and under FSDP gathered, at a time; a larger matrix goes alone
_RESOLUTION = 2e-7  # of σ/σ₁
_ZERO = 1e-36
_CAP = 0.1  # of the mean singular value


@dataclass(frozen=True)
class Quadratics:
    """H of matrices (m, n) or (n, m), m ≤ n, near the weights they were made at: ½⟨W, M W⟩ + `constants`, in nats."""

    metrics: list[Tensor]  # M (b, m, m) of each b matrices of one shape, in float32 or wider
    constants: Tensor  # one for every matrix, in float64

    def __call__(self, matrices: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """H float64 of every matrix, and dH/dW in its shape and dtype; as many as made it, in the same order."""
        products, gradients = [], []
        for stack, metrics in zip(_stacks(matrices), self.metrics, strict=True):
            weights = stack.to(metrics.dtype)
            tall = weights.shape[1] > weights.shape[2]
            slopes = torch.bmm(weights, metrics) if tall else torch.bmm(metrics, weights)
            gradients += _narrow(slopes, stack.dtype).unbind()
            products.append(_inner(slopes, weights))
        return self.constants.add(torch.cat(products), alpha=0.5), gradients


def batches(weights: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of weights (m, …) that are solved together, equal shapes one after the other, up to 4 M elements."""
    groups: dict[tuple[int, int, torch.dtype], list[int]] = {}
    for i, weight in enumerate(weights):
        groups.setdefault(_kind(weight), []).append(i)
    batch, elements = [], 0
    for i in chain.from_iterable(groups.values()):
        elements += weights[i].numel()
        if batch and elements > _BATCH_ELEMENTS:
            yield batch
            batch, elements = [], weights[i].numel()
        batch.append(i)
    yield batch


def spectra(matrices: Sequence[Tensor], power: int = 1) -> tuple[Tensor, list[Tensor]]:
    """H (b,) float64 and dH/dW, in each one's shape and dtype, of matrices (m, n) or (n, m).

    Gradients that overflow a narrower dtype, such as float16, are cut to its largest number. Raises
    torch.linalg.LinAlgError if a matrix is not finite.
    """
    stacks, gradients = _stacks(matrices), []
    solved = _solve(stacks, power)
    for stack, found in zip(stacks, solved, strict=True):
        slopes = found.slopes(found.sigma).masked_fill(found.sigma == 0, 0) / found.largest
        wide = torch.bmm(found.basis.mT, found.rows * slopes[:, :, None])
        gradients += _narrow(wide if wide.shape == stack.shape else wide.mT, stack.dtype).unbind()
    return torch.cat([found.entropies for found in solved]), gradients


def quadratics(matrices: Sequence[Tensor], power: int = 1) -> Quadratics:
    """What stands for H near matrices (m, n) or (n, m); raises like `spectra`.

    M grows as 1/σ₁² and is cut to what float32 holds, so that float32 matrices below 10⁻¹⁵ are pulled too weakly.
    """
    stacks, metrics, constants = _stacks(matrices), [], []
    for stack, found in zip(stacks, _solve(stacks, power), strict=True):
        cap = _CAP * found.sigma.mean(1, keepdim=True)
        slopes = found.slopes(torch.maximum(found.sigma, cap)).masked_fill(cap == 0, 0)
        metric = torch.bmm(found.basis.mT, found.basis * (slopes / found.largest**2)[:, :, None])
        metrics.append(_narrow(metric, torch.promote_types(torch.float32, stack.dtype)))
        constants.append(torch.sub(found.entropies, (slopes * found.sigma**2).sum(1), alpha=0.5))
    return Quadratics(metrics, torch.cat(constants))


@dataclass(frozen=True)
class _Solved:
    """Matrices (b, m, n), m ≤ n: Uᵀ (b, m, m), UᵀW/σ₁, σ/σ₁ (b, m), σ₁ (b, 1) (1 if it vanishes), H (b,)."""

    basis: Tensor
    rows: Tensor
    sigma: Tensor
    largest: Tensor
    total: Tensor  # Σ(σ/σ₁)ᵏ (b, 1)
    entropies: Tensor
    power: int

    def slopes(self, sigma: Tensor) -> Tensor:
        """dH/dσᵢ / σᵢ (b, m), in units of 1/σ₁², as it would be if σᵢ/σ₁ were `sigma`; meaningless at 0."""
        surprise = (sigma**self.power / self.total).log() + self.entropies[:, None]
        return -self.power * sigma ** (self.power - 2) * surprise / self.total


def _solve(stacks: Sequence[Tensor], power: int) -> list[_Solved]:
    """Every stack (b, m, n) or (b, n, m), m ≤ n, their eigenproblems all at once."""
    wide = [(s.mT if s.shape[1] > s.shape[2] else s).to(torch.float64) for s in stacks]
    found = eigh([torch.bmm(stack, stack.mT) for stack in wide])
    return [_solved(stack, *pair, power) for stack, pair in zip(wide, found, strict=True)]


def _solved(stack: Tensor, eigenvalues: Tensor, vectors: Tensor, power: int) -> _Solved:
    """From the Gram matrices' eigenvalues (b, m), ascending, and eigenvectors (b, m, m)."""
    largest = functional.threshold(eigenvalues[:, -1:], _ZERO**2, 1).sqrt()
    rows = torch.bmm(vectors.mT / largest[:, :, None], stack)
    sigma = functional.threshold(torch.linalg.vector_norm(rows, dim=2), _RESOLUTION, 0)
    mass = sigma**power
    total = mass.sum(1, keepdim=True).clamp_min(_ZERO)
    return _Solved(vectors.mT, rows, sigma, largest, total, torch.special.entr(mass / total).sum(1), power)


def _kind(weight: Tensor) -> tuple[int, int, torch.dtype]:
    return len(weight), weight.numel() // len(weight), weight.dtype


def _stacks(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Neighbours that are alike as (b, m, n); a matrix alone is not copied."""
    groups = [list(group) for _, group in groupby(matrices, _kind)]
    return [torch.stack(group) if len(group) > 1 else group[0][None] for group in groups]


def _inner(gradients: Tensor, stack: Tensor) -> Tensor:
    """⟨dH/dW, W⟩ (b,); uses up a stack of several, which is a copy that nobody needs any more."""
    if len(stack) == 1:
        return gradients.flatten().dot(stack.flatten())[None]
    return stack.mul_(gradients).sum((1, 2))


def _narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient.dtype == dtype:
        return gradient
    limit = torch.finfo(dtype).max
    return gradient.clamp(-limit, limit).to(dtype)
