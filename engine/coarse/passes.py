"""What passes over the tensors of a network share, whatever they try: the price, the limit, and asking the loss."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..codec.container import to_tensor
from .assembly import Assembler
from .loss import Loss
from .memory import Memory
from .state import State
from .tensor_coder import Candidate


@dataclass
class Pass:
    """A pass at a `price`, bytes per nat, that keeps the loss below `limit` (nats) wherever it can."""

    loss: Loss
    weights: Mapping[str, Tensor]
    assembler: Assembler
    memory: Memory
    price: float
    limit: float

    def _limit_on_part(self, state: State) -> float:
        """The limit for the loss on the part of the examples that decisions are taken on."""
        return self.limit + state.part_loss - state.loss

    def _value(self, name: str, candidate: Candidate) -> Tensor:
        """What a code stands for, in the tensor's own shape and type."""
        return to_tensor(candidate.decoded, tuple(self.weights[name].shape), self.weights[name].dtype)

    def _finish(self, state: State) -> None:
        """Ask for the slope, and the loss on all examples."""
        state.slope = self.loss.slope(state.params)
        if state.slope.loss is not None:
            state.loss = state.slope.loss
        else:
            state.loss = self.loss(state.params)

    def _gradients(self, state: State) -> dict[str, Tensor]:
        """The gradients where a state has stopped."""
        state.slope = state.slope or self.loss.slope(state.params)
        return state.slope.gradients
