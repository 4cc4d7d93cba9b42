"""A penalty on intrinsic dimension: the mean spectral entropy of a network's matrices, its gradient in closed form.

    penalty = SpectralEntropyRegularizer(weight=0.1)
    loss = task_loss + penalty(model)

Works as it is with autocast, torch.compile, DistributedDataParallel, FSDP2 and gradient accumulation.
docs/regularizer.md says what it costs and when it helps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..checkpoints.names import strip_wrappers
from ..errors import KolmogramError
from .spectral_entropy import Quadratics, batches, quadratics, spectra

_Function = TypeVar("_Function", bound=Callable[..., Tensor])
_Result = TypeVar("_Result")
_Solved = tuple[Tensor, list[Tensor]]  # H (b,) and dH/dW of each matrix of a batch


def _eager(function: _Function) -> _Function:
    """Keep torch.compile out: eigendecompositions and gathers have nothing to fuse."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


class SpectralEntropyRegularizer:
    """`weight` × the mean (or sum) over matrices of H = −Σ p ln p, p = σ/Σσ, in nats (arXiv 2412.09810).

    A matrix is any trainable parameter of two or more dimensions; convolutions are read as (out, in·k). `include` and
    `exclude` are globs on parameter names, e.g. exclude="*embedding*". `power=2` takes p = σ²/Σσ².

    `every=1` decomposes every matrix at every call and is exact. `every=k` does so on each k-th call and keeps what
    stands for the gradient near those weights, one product with an m × m matrix where the shorter side is m. It pulls
    singular values below a tenth of the mean in proportion to their size, not with full force (docs/regularizer.md:
    cheaper, and rank falls faster). Kept are m² numbers for each matrix; under FSDP2 on every rank.
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        include: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        power: Literal[1, 2] = 1,
        reduction: Literal["mean", "sum"] = "mean",
        every: int = 1,
    ) -> None:
        if power not in (1, 2) or reduction not in ("mean", "sum") or every < 1:
            raise KolmogramError(
                "SpectralEntropyRegularizer: power is 1 or 2, reduction 'mean' or 'sum', every at least 1; "
                f"got power={power!r}, reduction={reduction!r}, every={every!r}"
            )
        if not weight >= 0:
            raise KolmogramError(f"SpectralEntropyRegularizer: weight is at least 0, not {weight!r}")
        self.weight = weight
        self.every = every
        self._include = [include] if isinstance(include, str) else list(include)
        self._exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self._power = power
        self._reduction = reduction
        self._calls = 0
        self._kept: list[tuple[list[str], Quadratics]] = []
        self._last: list[tuple[list[str], Tensor]] = []  # entropies

    @_eager
    def __call__(self, model: nn.Module | Mapping[str, Tensor]) -> Tensor:
        """The penalty of a module, or of weights given by name: a scalar to be added to any loss.

        Without gradients (`torch.no_grad()`) it is exact and does not count as a call.
        """
        weights = self._select(model)
        total, scale, gradients = self._measure(weights, counts=torch.is_grad_enabled())
        return _KnownGradient.apply(total, scale, list(gradients.values()), *map(weights.get, gradients))

    def add_gradient(self, model: nn.Module | Mapping[str, Tensor]) -> Tensor:
        """Add the penalty's gradient to `.grad`, for training loops whose loss cannot be changed; returns the penalty.

        Call it once per optimiser step, between backward and step. Gradients must not be scaled (fp16) at that time. On
        a GPU it is also the faster way: one launch adds all gradients, where backward takes one for each.
        """
        weights = self._select(model)
        total, scale, gradients = self._measure(weights, counts=True)
        present = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        _add_scaled(list(present.values()), [gradients[name] for name in present], scale)
        for name in gradients.keys() - present.keys():
            weights[name].grad = gradients[name] * scale
        return total * scale

    def _measure(self, weights: Mapping[str, Tensor], *, counts: bool) -> tuple[Tensor, float, dict[str, Tensor]]:
        """ΣH over matrices, what it is to be multiplied by, and dH/dW by name; exact if it does not count as a call."""
        some = next(iter(weights.values()))
        self._last, gradients = [], {}
        with torch.no_grad(), _without_autocast(some.device.type):
            for names, (entropies, slopes) in self._solve(weights, exact=self.every == 1 or not counts):
                self._last.append((names, entropies))
                for name, slope in zip(names, slopes, strict=True):
                    gradients[name] = _part(slope, like=weights[name])
        self._calls += counts
        scale = self.weight / (len(weights) if self._reduction == "mean" else 1)
        dtype = torch.promote_types(torch.float32, some.dtype)
        total = torch.cat([entropies for _, entropies in self._last]).sum(dtype=dtype)
        return total, scale, gradients

    @property
    def entropies(self) -> dict[str, float]:
        """H of every matrix at the last call, in nats; costs nothing, since it is there."""
        return {name: value for names, values in self._last for name, value in zip(names, values.tolist(), strict=True)}

    @property
    def effective_ranks(self) -> dict[str, float]:
        """exp(H) of every matrix at the last call (Roy & Vetterli 2007)."""
        return {name: math.exp(entropy) for name, entropy in self.entropies.items()}

    def means(self) -> dict[str, float]:
        """The two numbers to log: mean `spectral_entropy` in nats and mean `effective_rank` over matrices."""
        if not self._last:
            raise KolmogramError(
                "SpectralEntropyRegularizer: means() are those of the last call, and there was none yet"
            )
        return {name: float(value) for name, value in self.tensor_means().items()}

    def tensor_means(self) -> dict[str, Tensor]:
        """The same as scalars on the device, which nobody waits for."""
        entropies = torch.cat([entropies for _, entropies in self._last])
        return {"spectral_entropy": entropies.mean(), "effective_rank": entropies.exp().mean()}

    def state_dict(self) -> dict[str, Any]:
        """What `every` > 1 needs to go on after a restart as if there had been none: a count, names and tensors."""
        return {"calls": self._calls, "kept": [{"names": names, **vars(kept)} for names, kept in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._calls = state["calls"]
        self._kept = [(kept["names"], Quadratics(kept["metrics"], kept["constants"])) for kept in state["kept"]]

    def _select(self, model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {
            name: weight
            for name, weight in (model.items() if isinstance(model, Mapping) else _trainable(model))
            if weight.ndim >= 2
            and weight.numel()
            and weight.is_floating_point()
            and any(fnmatchcase(name, glob) for glob in self._include)
            and not any(fnmatchcase(name, glob) for glob in self._exclude)
        }
        if not weights:
            raise KolmogramError("SpectralEntropyRegularizer: no matrix to regularise; look at include= and exclude=")
        return weights

    def _solve(self, weights: Mapping[str, Tensor], *, exact: bool) -> Iterator[tuple[list[str], _Solved]]:
        """Names, H and dH/dW of one batch of matrices at a time; a decomposition, or what stands for it."""
        if exact:
            return _decomposed(weights, lambda batch: spectra(batch, self._power))
        if self._calls % self.every == 0 or {name for names, _ in self._kept for name in names} != weights.keys():
            self._kept = list(_decomposed(weights, lambda batch: quadratics(batch, self._power)))
        return ((names, kept([_matrix(weights[name]) for name in names])) for names, kept in self._kept)


def _decomposed(
    weights: Mapping[str, Tensor], solve: Callable[[list[Tensor]], _Result]
) -> Iterator[tuple[list[str], _Result]]:
    """Names and result of each batch of matrices, gathered one batch at a time."""
    names = list(weights)
    for batch in batches(list(weights.values())):
        members = [names[i] for i in batch]
        try:
            yield members, solve([_matrix(weights[name]) for name in members])
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            which = " or ".join([name for name in members if not _matrix(weights[name]).isfinite().all()] or members)
            raise KolmogramError(f"SpectralEntropyRegularizer: NaN or infinite weights in {which}") from None


class _KnownGradient(torch.autograd.Function):
    """A scalar together with its gradients, which were computed along with it."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, scale: float, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.scale, ctx.gradients = scale, gradients
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, None, *_scaled(ctx.gradients, upstream * ctx.scale)


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters that are trained, once each, under names that wrappers do not change, as those of checkpoints."""
    parameters = dict(model.named_parameters())
    names = strip_wrappers(parameters)  # of all, so that freezing does not change them either
    return ((names[stored], parameter) for stored, parameter in parameters.items() if parameter.requires_grad)


def _matrix(weight: Tensor) -> Tensor:
    """All of a weight as (out, in·k); of a sharded one (a DTensor of FSDP2), gathered from all ranks."""
    gather = getattr(weight, "full_tensor", None)
    return (gather() if gather else weight).flatten(1)


def _part(gradient: Tensor, like: Tensor) -> Tensor:
    """A matrix's gradient in the shape of its weight; of a sharded one, this rank's part of it."""
    if like.ndim > 2:
        gradient = gradient.reshape(like.shape)
    if not _is_sharded(like):
        return gradient
    from torch.distributed.tensor import DTensor, Replicate  # 0.7 s that only sharded training needs

    assert isinstance(like, DTensor)
    whole = DTensor.from_local(gradient, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return whole.redistribute(placements=like.placements)


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Products in the dtype of their factors."""
    autocast = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if autocast else nullcontext()


def _scaled(gradients: list[Tensor], factor: Tensor) -> Sequence[Tensor]:
    """Each times a scalar: in one launch on a GPU, where sharded gradients cannot take part."""
    if any(map(_is_sharded, gradients)):
        return [factor * gradient for gradient in gradients]
    return torch._foreach_mul(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]


def _add_scaled(sums: list[Tensor], gradients: list[Tensor], factor: float) -> None:
    """Add each times a number, likewise."""
    if any(map(_is_sharded, gradients)):
        for sum_, gradient in zip(sums, gradients, strict=True):
            sum_.add_(gradient, alpha=factor)
    elif sums:
        torch._foreach_add_(sums, gradients, alpha=factor)  # pyright: ignore[reportPrivateImportUsage]


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
