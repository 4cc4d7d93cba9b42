"""Spectral entropy of matrices together with its gradient, in closed form.

H(W) = −Σ pᵢ ln pᵢ with pᵢ = σᵢᵏ / Σσᵏ, in nats; k = 1 is the paper's (arXiv 2412.09810), k = 2 weighs energies. With
W = U diag(σ) Vᵀ,

    dH/dW = U diag(dH/dσ) Vᵀ,    dH/dσᵢ = −k σᵢᵏ⁻¹ (ln pᵢ + H) / Σσᵏ

All of this follows from U and W alone, since the rows of UᵀW are σᵢ vᵢᵀ. So there are two parts: the basis U, from the
eigenvectors of the Gram matrix of the shorter side, which is dear; and σ, H and the gradient in a given basis, two
matrix products, which is cheap. A basis that is some training steps old still serves: σᵢ are then the norms of the rows
of UᵀW, and their not being quite orthogonal any more changes H in second order only.

Nothing is differentiated through a decomposition, so equal singular values are no special case. The Gram matrix squares
the spectrum and is therefore formed in float64. Singular values below 2·10⁻⁷ σ₁ (in a held float32 basis 10⁻⁶ σ₁) count
as zero: float32 weights do not define them. So do all of a matrix with σ₁ < 10⁻³⁶, where float32 becomes denormal. At
σ = 0 the slope of −p ln p is infinite and its direction undefined; the gradient there is taken as 0, because H has a
minimum in that direction. So exact low rank stays exact, all-zero and rank-one matrices have H = 0 and gradient 0, and
nothing becomes NaN.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.spectra import eigh

_BATCH_ELEMENTS = 2**22  # what is solved, and under FSDP gathered, at a time; a larger matrix goes alone
_RESOLUTION = {torch.float64: 2e-7, torch.float32: 1e-6}  # of σ/σ₁
_ZERO = 1e-36


class Spectra(NamedTuple):
    """Of the matrices of one batch: H in nats, dH/dW in each one's shape and dtype, and the bases used."""

    entropies: Tensor  # (b,)
    gradients: list[Tensor]
    bases: Tensor  # (b, m, m): Uᵀ/σ₁ of each matrix, of its transpose if that is wider


def batches_by_shape(shapes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of matrices that can be solved together: one shape up to transposition, up to 4 M elements."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (m, n) in enumerate(shapes):
        groups.setdefault((min(m, n), max(m, n)), []).append(i)
    for (m, n), members in groups.items():
        size = max(1, _BATCH_ELEMENTS // max(1, m * n))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def spectra(matrices: Sequence[Tensor], power: int = 1, bases: Tensor | None = None) -> Spectra:
    """Entropies and gradients of matrices (m, n) or (n, m) of one batch, of any float dtype.

    Exact without `bases`; with those of an earlier call, in the dtype they have, an approximation that is exact while
    the weights are unchanged. Gradients that overflow a narrower dtype, such as float16, are cut to its largest number.
    Raises torch.linalg.LinAlgError if a matrix is not finite and its basis is wanted.
    """
    dtype = torch.float64 if bases is None else bases.dtype
    stack = torch.stack([_wide(matrix).to(dtype) for matrix in matrices])
    if bases is None:
        bases = _left_bases(stack)
    entropies, gradients = _in_bases(bases, stack, power)
    narrowed = [_narrow(gradient, like=matrix) for gradient, matrix in zip(gradients, matrices, strict=True)]
    return Spectra(entropies, narrowed, bases)


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def _narrow(gradient: Tensor, like: Tensor) -> Tensor:
    if gradient.dtype != like.dtype:
        limit = torch.finfo(like.dtype).max
        gradient = gradient.clamp_(-limit, limit).to(like.dtype)
    return gradient.mT if like.shape[0] > like.shape[1] else gradient


def _left_bases(stack: Tensor) -> Tensor:
    """Uᵀ/σ₁ of each matrix: (b, m, n) with m ≤ n -> (b, m, m)."""
    eigenvalues, vectors = eigh(stack @ stack.mT)
    largest = eigenvalues[:, -1:, None].clamp_min(0).sqrt()
    return vectors.mT / torch.where(largest > _ZERO, largest, 1)


def _in_bases(bases: Tensor, stack: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """H (b,) and dH/dW (b, m, n) of matrices (b, m, n) whose singular values are read off in the given bases."""
    rows = bases @ stack
    sigma = torch.linalg.vector_norm(rows, dim=2)  # in units of σ₁: H does not depend on the scale
    nonzero = sigma > _RESOLUTION[sigma.dtype]
    mass = nonzero * sigma**power
    total = mass.sum(1, keepdim=True).clamp_min(_ZERO)
    p = mass / total
    entropy = -torch.xlogy(p, p).sum(1, keepdim=True)
    slope_over_sigma = torch.where(nonzero, -power * sigma ** (power - 2) * (p.log() + entropy) / total, 0)
    return entropy[:, 0], bases.mT @ rows.mul_(slope_over_sigma[:, :, None])
