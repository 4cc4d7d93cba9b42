"""A coded network on its way through the search."""

from dataclasses import dataclass

from torch import Tensor

from ..codec.representation import Decoded, Kind
from .loss import Slope
from .tensor_coder import Candidate


@dataclass
class State:
    """One candidate a tensor in file order, the log step it was coded at, and its decoded weights."""

    candidates: dict[str, Candidate]
    levels: dict[str, float]
    params: dict[str, Tensor]
    loss: float
    """On all examples, nats."""
    part_loss: float
    """On the part of them that decisions are taken on."""
    slope: Slope | None = None
    """Where the state has stopped."""

    def copy(self) -> "State":
        """A state that can be changed on its own, and so has no slope yet."""
        return State(dict(self.candidates), dict(self.levels), dict(self.params), self.loss, self.part_loss)

    @property
    def estimated_bytes(self) -> float:
        """Bytes by the search's own estimate."""
        return sum(c.bits for c in self.candidates.values()) / 8

    @property
    def decoded(self) -> list[Decoded]:
        """What the decoder would have, in file order."""
        return [c.decoded for c in self.candidates.values()]

    @property
    def dropped(self) -> frozenset[str]:
        """Tensors coded as zero."""
        return frozenset(name for name, c in self.candidates.items() if c.code.kind == Kind.ZERO)
