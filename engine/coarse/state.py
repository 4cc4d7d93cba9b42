"""A coded network on its way through the search."""

from typing import NamedTuple

from torch import Tensor

from ..codec.representation import Decoded
from .tensor_coder import Candidate


class State(NamedTuple):
    """One candidate a tensor in file order, its decoded weights, and their loss on all examples in nats."""

    candidates: dict[str, Candidate]
    params: dict[str, Tensor]
    loss: float

    @property
    def estimated_bytes(self) -> float:
        """Bytes by the search's own estimate."""
        return sum(c.bits for c in self.candidates.values()) / 8

    @property
    def decoded(self) -> list[Decoded]:
        """What the decoder would have, in file order."""
        return [c.decoded for c in self.candidates.values()]
