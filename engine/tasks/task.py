"""A task: what makes a loss out of weights.

Anything with a `loss` method is a task. The other methods named in `Task` are optional: whoever wants one asks whether
the object has it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import TaskError
from ..lazy import lazy
from .identity import digest
from .labels import drawn_labels

_IGNORED = -100  # the label that cross_entropy passes over


class Task(ABC):
    """Training data and a network's shape; the weights come from outside.

    Optional methods of a task (none is needed to measure complexity, each improves or adds something):

    - `per_example_loss(params) -> (n,)`: nats, one per training example
    - `sampled_loss(params, generator) -> (n,)`: the same with labels drawn from the model (Fisher statistics)
    - `error_rate(params) -> float`: share of training examples that are wrong (generalisation bounds)
    - `test_loss(params) -> Tensor`: scalar, nats per example on held-out data
    - `subset(examples) -> Task`: the task on these of its `num_examples` training examples ((k,) int64, where its data
      are), or on about as many (the search asks a part of them where a decision is not final)
    - `accuracies(params) -> dict[str, float]`: further columns of the trajectory, by name
    """

    num_examples: int | None = None
    """Number of training examples behind `loss`."""

    num_classes: int | None = None
    """Number of possible labels, for classifiers."""

    buffers: frozenset[str] = frozenset()
    """Names of tensors that are no parameters, where the task knows them: complexity keeps these to the byte."""

    device: torch.device | str = "cpu"
    """Where its data lie: weights are put there before `loss` and the others see them."""

    population: int | None = None
    """Size of the finite population of which the training examples are a uniformly random subset; `test_loss` is then
    over the rest of it. None: they are i.i.d."""

    exchangeable: bool = True
    """Whether the training examples are one or the other, as every generalisation bound needs."""

    @abstractmethod
    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        """Mean training loss: a scalar in nats per example, differentiable in `params` (names as in the checkpoint)."""

    @staticmethod
    def from_module(
        model: nn.Module, batches: Iterable[tuple[object, Tensor]], loss_fn: Callable[[Tensor, Tensor], Tensor]
    ) -> "ModuleTask":
        """The task of any module on a list of (inputs, targets); inputs may be a tensor, a tuple or a dict of tensors.

        `loss_fn(outputs, targets)` is the mean loss of one batch; batches count by their number of targets. The module
        is copied and put into evaluation mode, so that dropout is off and the one given stays as it is. With
        `torch.nn.functional.cross_entropy` (or `nn.CrossEntropyLoss()`) and (n,) integer targets the task also has
        `per_example_loss`, `sampled_loss`, `error_rate` and `num_classes`, since the outputs are known to be logits;
        examples with the label -100, which it ignores, count nowhere.
        """
        batches = list(batches)
        labels = all(targets.ndim == 1 and not targets.is_floating_point() for _, targets in batches)
        kind = ClassifierTask if labels and _is_cross_entropy(loss_fn) else ModuleTask
        return kind(model, batches, loss_fn)


class _Given:
    """Somebody's object, with what a `Task` says where the object says nothing; known by that object's class."""

    def __init__(self, given: Any) -> None:
        self._given = given

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]: only read
        return type(self._given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given if hasattr(self._given, name) else Task, name)


class FunctionTask(Task):
    """A plain loss function."""

    def __init__(self, function: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        self._function = function

    @property
    def config(self) -> dict[str, str]:
        """What tells it from another: a digest of the function."""
        return {"function": digest(self._function)}

    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        return self._function(params)


def as_task(given: Any) -> Task:
    """Any object with a `loss`, or a plain loss function, as a task; TaskError for anything else."""
    if isinstance(given, Task):
        return given
    if callable(getattr(given, "loss", None)):
        return cast(Task, _Given(given))
    if _takes_one(given):
        return FunctionTask(given)
    kind = type(given).__name__
    raise TaskError(f"a task is an object with loss(params), not {kind}; a function of params alone is one too")


def _takes_one(function: Any) -> bool:
    """Whether it is a function that can be called with one argument."""
    if isinstance(function, type) or not callable(function):
        return False
    try:
        signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # of some that are built in nothing is known
        return True
    return True


def as_parameter(tensor: Tensor, task: Any) -> Tensor:
    """A stored tensor as a task gets it: half and quarter precision widened to float32, where the task's data are."""
    narrow = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return tensor.to(getattr(task, "device", "cpu"), torch.float32 if narrow else tensor.dtype)


class ModuleTask(Task):
    """A module called with foreign weights, over a fixed list of batches."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[object, Tensor]],
        loss_fn: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._model = copy.deepcopy(model).eval()
        self._batches = list(batches)
        self._loss_fn = loss_fn
        if not self._batches:
            raise TaskError("Task.from_module: no batches with targets; give at least one (inputs, targets)")
        self.num_examples = sum(len(targets) for _, targets in self._batches)
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))

    @property
    def config(self) -> dict[str, str]:
        """What makes it the task that it is: the module's structure, and a digest of the data and the loss function."""
        return {"module": repr(self._model), "data and loss": digest(self._batches, self._loss_fn)}

    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        total = sum(self._batch_loss(outputs, targets) * len(targets) for outputs, targets in self._outputs(params))
        assert isinstance(total, Tensor)
        return total / sum(len(targets) for _, targets in self._batches)

    def subset(self, examples: Tensor) -> "ModuleTask":
        """The same task on whole batches that hold these targets, in their order, until there are as many."""
        ends = torch.tensor([len(targets) for _, targets in self._batches]).cumsum(0)
        part = copy.copy(self)
        part._batches, part.num_examples = [], 0
        for index in dict.fromkeys(torch.bucketize(examples.cpu(), ends, right=True).tolist()):
            if part.num_examples >= len(examples):
                break
            part._batches.append(self._batches[index])
            part.num_examples += len(self._batches[index][1])
        return part

    def _outputs(self, params: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the module makes of each batch, with the batch's targets."""
        check_module_names(self._model, params)
        weights: dict[str, Any] = dict(params)
        for inputs, targets in self._batches:
            yield self._output(weights, inputs), targets

    def _output(self, weights: dict[str, Any], inputs: object) -> Tensor:
        try:
            return functional_call(self._model, weights, *_call_arguments(inputs))
        except (RuntimeError, ValueError) as error:
            _check_types(weights, inputs, error)
            raise

    def _batch_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self._loss_fn(outputs, targets)
        if not isinstance(loss, Tensor):
            raise TaskError(f"loss_fn must return a scalar tensor, it returned {type(loss).__name__}")
        if loss.numel() != 1:
            raise TaskError(f"loss_fn must return a scalar tensor, it returned {tuple(loss.shape)}: take the mean")
        return loss.reshape(())


class ClassifierTask(ModuleTask):
    """A module whose outputs are (n, classes) logits, under cross-entropy."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[object, Tensor]],
        loss_fn: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        counted = [_counted(inputs, targets) for inputs, targets in batches]
        super().__init__(model, [batch for batch in counted if len(batch[1])], loss_fn)

    @lazy
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as the logits of an example: of the first batch, by copies of the module's own weights."""
        own = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        with torch.no_grad():
            copies = {name: as_parameter(value.detach().clone(), self) for name, value in own.items()}
            logits = self._output(copies, self._batches[0][0])
        return logits.shape[-1]

    def per_example_loss(self, params: Mapping[str, Tensor]) -> Tensor:
        """(n,) nats, batch after batch."""
        losses = [F.cross_entropy(logits, targets, reduction="none") for logits, targets in self._outputs(params)]
        return torch.cat(losses)

    def sampled_loss(self, params: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """(n,) nats with labels drawn from the module's own prediction."""
        losses = []
        for logits, _ in self._outputs(params):
            losses.append(F.cross_entropy(logits, drawn_labels(logits, generator), reduction="none"))
        return torch.cat(losses)

    @torch.no_grad()
    def error_rate(self, params: Mapping[str, Tensor]) -> float:
        """Share of wrong answers."""
        wrong = [(logits.argmax(-1) != targets) for logits, targets in self._outputs(params)]
        return torch.cat(wrong).double().mean().item()

    def _output(self, weights: dict[str, Any], inputs: object) -> Tensor:
        if isinstance(inputs, _Counted):
            return super()._output(weights, inputs.inputs)[inputs.rows]
        return super()._output(weights, inputs)


class _Counted(NamedTuple):
    """Inputs of a batch, and the rows of its outputs ((k,) int64) that have a label."""

    inputs: object
    rows: Tensor


def _counted(inputs: object, targets: Tensor) -> tuple[object, Tensor]:
    """A batch without the labels that are ignored; found once, for how many there are has to be read from a GPU."""
    rows = (targets.long() != _IGNORED).nonzero().flatten()  # long, since -100 in uint8 is 156
    return (inputs, targets) if len(rows) == len(targets) else (_Counted(inputs, rows), targets[rows])


def _is_cross_entropy(loss_fn: object) -> bool:
    """Whether it is `F.cross_entropy` with its defaults, as a function or as a module."""
    if type(loss_fn) is not nn.CrossEntropyLoss:
        return loss_fn is F.cross_entropy
    settings = loss_fn.label_smoothing, loss_fn.reduction, loss_fn.ignore_index
    return loss_fn.weight is None and settings == (0, "mean", _IGNORED)


def _call_arguments(inputs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """Positional and keyword arguments for a module's forward."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _check_types(weights: Mapping[str, Tensor], inputs: object, error: Exception) -> None:
    """Raise TaskError if a module failed because its inputs are of another floating type than its weights."""
    positional, named = _call_arguments(inputs)
    came, given = _floating_types(weights.values()), _floating_types([*positional, *named.values()])
    if "type" in str(error) and set(given) - set(came):
        message = f"inputs are {', '.join(given)}, weights come as {', '.join(came)}: give the task such inputs"
        raise TaskError(f"{message} ({' '.join(str(error).split())})") from error


def _floating_types(values: Iterable[object]) -> list[str]:
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})


def check_module_names(model: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Raise TaskError unless `params` fit the module: tied parameters once, buffers only where they are given."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    given = {id(parameters[name]) for name in params if name in parameters}
    required = {name: p for name, p in parameters.items() if name in params or id(p) not in given}
    buffers = {name: b for name, b in model.named_buffers(remove_duplicate=False) if name in params}
    check_names({name: tuple(t.shape) for name, t in (required | buffers).items()}, params)


def check_names(expected: Mapping[str, tuple[int, ...]], params: Mapping[str, Tensor]) -> None:
    """Raise TaskError naming what is missing, unknown or of another shape; cheap enough for every loss evaluation."""
    problems = []
    if missing := expected.keys() - params.keys():
        problems.append(f"missing {_some(missing)}")
    if unknown := params.keys() - expected.keys():
        problems.append(f"unknown {_some(unknown)}")
    misshaped = [
        f"{name} is {tuple(params[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in params and params[name].shape != shape
    ]
    if problems or misshaped:
        raise TaskError(f"the task does not fit these weights: {'; '.join(problems + misshaped[:3])}")


def _some(names: Iterable[str], limit: int = 4) -> str:
    """The first few names, and how many more there are."""
    ordered: Sequence[str] = sorted(names)
    rest = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + rest
