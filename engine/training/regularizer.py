"""A penalty on intrinsic dimension: the mean spectral entropy of a network's matrices, its gradient in closed form.

    penalty = SpectralEntropyRegularizer(weight=0.1)
    loss = task_loss + penalty(model)

Works as it is with autocast, torch.compile, DistributedDataParallel, FSDP2 and gradient accumulation.
docs/regularizer.md says what it costs and when it helps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import mean
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import KolmogramError
from .spectral_entropy import Quadratic, batches_by_shape, quadratics, spectra

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile

_Function = TypeVar("_Function", bound=Callable[..., Tensor])
_Result = TypeVar("_Result")


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
        self.weight = weight
        self.every = every
        self._include = [include] if isinstance(include, str) else list(include)
        self._exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self._power = power
        self._reduction = reduction
        self._calls = 0
        self._kept: dict[str, Quadratic] = {}
        self._last: dict[str, Tensor] = {}  # entropies

    @_eager
    def __call__(self, model: nn.Module | Mapping[str, Tensor]) -> Tensor:
        """The penalty of a module, or of weights given by name: a scalar to be added to any loss.

        Without gradients (`torch.no_grad()`) it is exact and does not count as a call.
        """
        weights = self._select(model)
        if self.every == 1 or not torch.is_grad_enabled():
            solved = self._solve(weights)
        else:
            if self._calls % self.every == 0 or self._kept.keys() != weights.keys():
                self._kept = self._approximate(weights)
            solved = _evaluate(self._kept, weights)
        self._calls += torch.is_grad_enabled()
        self._last = solved.entropies
        dtype = torch.promote_types(torch.float32, next(iter(weights.values())).dtype)
        total = torch.stack(list(solved.entropies.values())).sum().to(dtype)
        total = _KnownGradient.apply(total, list(solved.gradients.values()), *map(weights.get, solved.gradients))
        return total * (self.weight / (len(weights) if self._reduction == "mean" else 1))

    def add_gradient(self, model: nn.Module | Mapping[str, Tensor]) -> Tensor:
        """Add the penalty's gradient to `.grad`, for training loops whose loss cannot be changed; returns the penalty.

        Call it once per optimiser step, between backward and step. Gradients must not be scaled (fp16) at that time.
        """
        weights = self._select(model)
        value = self(model)
        for weight, gradient in zip(weights.values(), torch.autograd.grad(value, list(weights.values())), strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        return value.detach()

    @property
    def entropies(self) -> dict[str, float]:
        """H of every matrix at the last call, in nats; costs nothing, since it is there."""
        return {name: entropy.item() for name, entropy in self._last.items()}

    @property
    def effective_ranks(self) -> dict[str, float]:
        """exp(H) of every matrix at the last call (Roy & Vetterli 2007)."""
        return {name: math.exp(entropy) for name, entropy in self.entropies.items()}

    def means(self) -> dict[str, float]:
        """The two numbers to log: mean `spectral_entropy` in nats and mean `effective_rank` over matrices."""
        ranks = self.effective_ranks.values()
        return {"spectral_entropy": mean(self.entropies.values()), "effective_rank": mean(ranks)}

    def state_dict(self) -> dict[str, Any]:
        """What `every` > 1 needs to go on after a restart as if there had been none: a count and tensors by name."""
        return {"calls": self._calls, "kept": {name: vars(quadratic) for name, quadratic in self._kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._calls = state["calls"]
        self._kept = {name: Quadratic(**tensors) for name, tensors in state["kept"].items()}

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

    def _solve(self, weights: Mapping[str, Tensor]) -> "_Solved":
        """Every matrix exactly."""
        solved = _Solved({}, {})
        for names, (entropies, gradients) in _in_batches(weights, lambda batch: spectra(batch, self._power)):
            for name, entropy, gradient in zip(names, entropies, gradients, strict=True):
                solved.note(name, entropy, gradient, weights[name])
        return solved

    def _approximate(self, weights: Mapping[str, Tensor]) -> dict[str, Quadratic]:
        """What stands for each matrix from now on."""
        found: dict[str, Quadratic] = {}
        for names, kept in _in_batches(weights, lambda batch: quadratics(batch, self._power)):
            found |= dict(zip(names, kept, strict=True))
        return found


class _Solved(NamedTuple):
    """H and dH/dW of every matrix by its name, the gradient laid out like its weight."""

    entropies: dict[str, Tensor]
    gradients: dict[str, Tensor]

    def note(self, name: str, entropy: Tensor, gradient: Tensor, weight: Tensor) -> None:
        """Add one matrix."""
        self.entropies[name] = entropy
        self.gradients[name] = _part(gradient.reshape(weight.shape), like=weight)


@torch.no_grad()
def _in_batches(
    weights: Mapping[str, Tensor], solve: Callable[[list[Tensor]], _Result]
) -> Iterator[tuple[list[str], _Result]]:
    """Names and result of each batch of matrices, gathered one batch at a time."""
    names = list(weights)
    for batch in batches_by_shape([(len(w), w.numel() // len(w)) for w in weights.values()]):
        members = [names[i] for i in batch]
        try:
            yield members, solve([_whole(weights[name]).flatten(1) for name in members])
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            which = " or ".join(members)
            raise KolmogramError(f"SpectralEntropyRegularizer: NaN or infinite weights in {which}") from None


@torch.no_grad()
def _evaluate(kept: Mapping[str, Quadratic], weights: Mapping[str, Tensor]) -> _Solved:
    """Every matrix by what stands for it, gathered one at a time."""
    solved = _Solved({}, {})
    for name, weight in weights.items():
        solved.note(name, *kept[name](_whole(weight).flatten(1)), weight)
    return solved


class _KnownGradient(torch.autograd.Function):
    """A scalar together with its gradients, which were computed along with it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *(upstream * g for g in ctx.gradients)


def _trainable(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters that are trained, once each, under names that wrappers do not change."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            for wrapper in _WRAPPERS:
                name = name.replace(wrapper, "")
            yield name, parameter


def _whole(weight: Tensor) -> Tensor:
    """The full tensor; of a sharded one (a DTensor of FSDP2), gathered from all ranks."""
    gather = getattr(weight, "full_tensor", None)
    return (gather() if gather else weight).detach()


def _part(gradient: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a gradient that every rank knows in full."""
    if not hasattr(like, "full_tensor"):
        return gradient
    from torch.distributed.tensor import DTensor, Replicate  # 0.7 s that only sharded training needs

    assert isinstance(like, DTensor)
    whole = DTensor.from_local(gradient, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return whole.redistribute(placements=like.placements)
