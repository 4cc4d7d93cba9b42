"""The way to one ε: sweeps make the network coarser than ε allows, and refinement brings the loss back.

At the same bytes, moving single integers takes back most of what coarse steps cost. So a sweep may overshoot ε, by as
much as refinement has shown to make up for. What is left is bought back with dear nats: a coarse network has found its
structure, and to spend some bytes on it is cheaper than to come from a fine one. So is the way to a smaller ε.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from .assembly import Assembler
from .loss import Loss
from .memory import Memory
from .refinement import Refinement
from .state import State
from .sweep import Sweep

OPENING, RAMP = 0.5, 3  # rise in ε that the first sweep may cause; after so many it is all that a sweep may
FURTHEST = 6.0  # that at most
EMPTY_SHARE = 0.6  # but no more than this share of what the empty network loses: beyond lies nothing to come back from
SMALLEST_CHANGE, LARGEST_CHANGE = 0.5, 1.6  # of the overshoot from sweep to sweep
AIM = 0.985  # share of what it may use that a sweep keeps below
THOROUGH = 3  # one sweep in so many is thorough
ENOUGH = 0.8  # rise in ε below which no refinement is needed before the next sweep
BLOCKED, RAISE = 0.01, 1.3  # the price rises by this factor where the limit kept back this share of the bytes
PRICE_FALLS, PRICE_RISES = 0.5, 1.4  # at most, from sweep to sweep and from pass to pass
RETURNING, DESCENDING = 8, 20  # passes at most that bring the loss back after a sweep, and to a smaller ε
DEARER = 1.5  # by so much are nats dearer from one to the next
PATIENCE = 0.25  # share of these that may bring nothing in a row: at first nats may be too cheap for any move
BACK_OFF = 0.8  # how much shorter the next overshoot is after one that did not come back
DESCENT = 0.2  # price of a nat at first on the way to a smaller ε, where scaling says 1
POLISHING = 0.1  # price of a nat in the refinement at the end, where scaling says 1


@dataclass
class Approach:
    """Takes a finer network to a rise of `epsilon`; the empty network's rise is `empty`, all in nats.

    `look` makes an assembler under the curvature at a state; every state passed is offered to `offer`.
    """

    loss: Loss
    weights: Mapping[str, Tensor]
    memory: Memory
    epsilon: float
    empty: float
    look: Callable[[State], Assembler]
    offer: Callable[[State], None]

    def run(self, state: State, sweeps: int, passes: int) -> Iterator[State]:
        """The states after so many sweeps from a finer one, with at most so many passes of refinement after each.

        The end is as many passes again as there were sweeps.
        """
        self.memory.reaches.clear()  # a further ε is far away again
        furthest = min(FURTHEST, max(EMPTY_SHARE * self.empty / self.epsilon, 1.0))
        opening = min(max(self._rise(state), OPENING) / furthest, 1.0)
        smallest, assembler = state, None
        for number in range(sweeps):
            allowed = min(furthest * opening ** max(1 - (number + 1) / RAMP, 0.0), self.memory.overshoot)
            assembler = self.look(state)
            state = self._sweep(state, assembler, allowed, number % THOROUGH == 0)
            if self._rise(state) > ENOUGH:
                state = self._refine(state, assembler, allowed, furthest, passes)
            if self._better(state, smallest):
                smallest = state
            elif self.reaches(smallest) and not self.reaches(state):
                state, self.memory.overshoot = smallest, max(BACK_OFF * self.memory.overshoot, 1.0)
            yield state
        if assembler is not None:
            self._polish(state, smallest, assembler, sweeps)

    def descend(self, state: State, passes: int) -> State:
        """The state brought back from a larger ε, with so many passes of refinement at the end if it has come back."""
        self.memory.stiffnesses.clear()  # what resists where nats are cheap may give where they are dear
        assembler = self.look(state)
        state = self._return(state, assembler, DESCENT * self._scale(state), DESCENDING)
        if self.reaches(state):
            state, _ = self._passes(state, assembler, POLISHING * self._scale(state), passes, 0.0)
        return state

    def reaches(self, state: State) -> bool:
        """Whether the rise of a state is allowed."""
        return self._rise(state) <= 1

    def _polish(self, state: State, smallest: State, assembler: Assembler, passes: int) -> None:
        """Refine for the last bytes: from a state that has still to come back, if it does, else from the smallest."""
        if not self.reaches(state):
            state, _ = self._passes(state, assembler, POLISHING * self._scale(state), passes, 0.0)
            if self.reaches(state):
                return
        self._passes(smallest, assembler, POLISHING * self._scale(smallest), passes, 0.0)

    def _rise(self, state: State) -> float:
        """By how much the loss has risen, in ε."""
        return (state.loss - self.loss.original) / self.epsilon

    def _better(self, state: State, than: State) -> bool:
        """Whether a state is feasible, and smaller than another that is."""
        return self.reaches(state) and (not self.reaches(than) or state.estimated_bytes < than.estimated_bytes)

    def _scale(self, state: State) -> float:
        """The price of a nat in bytes if all steps were scaled together.

        A rise that grows with the square of the steps makes it gain / 2ε, when an e-fold of all steps gains so many.
        """
        gain = sum(self.memory.gain(name, candidate) for name, candidate in state.candidates.items())
        return max(gain, 1.0) / (2 * self.epsilon)

    def _sweep(self, state: State, assembler: Assembler, allowed: float, thorough: bool) -> State:
        """A sweep that may use `allowed` ε. How right its price was shows in what is left, and in what was blocked."""
        price = self.memory.correction * self._scale(state) / allowed
        aim = self.loss.original + AIM * allowed * self.epsilon
        sweep = Sweep(self.loss, self.weights, assembler, self.memory, price, aim, thorough)
        state = sweep.run(state)
        self.offer(state)
        if sweep.blocked > BLOCKED * state.estimated_bytes:
            self.memory.correction *= RAISE
        else:
            used = max(self._rise(state) / allowed, 1e-3)
            self.memory.correction *= min(max(math.sqrt(used / AIM), PRICE_FALLS), PRICE_RISES)
        return state

    def _refine(self, state: State, assembler: Assembler, allowed: float, furthest: float, passes: int) -> State:
        """Bring the loss back, and learn by how much the next sweep may overshoot.

        What does not come back cheaply does so at a price, which is less than to go back to where it was.
        """
        scale = self._scale(state)
        state, price = self._passes(state, assembler, self.memory.thrift * scale, passes, ENOUGH)
        self.memory.thrift = price / scale
        change = 1 / max(self._rise(state), 1e-3)
        self.memory.overshoot = allowed * min(max(change, SMALLEST_CHANGE), LARGEST_CHANGE)
        self.memory.overshoot = min(max(self.memory.overshoot, 1.0), furthest)
        return self._return(state, assembler, price, RETURNING)

    def _return(self, state: State, assembler: Assembler, price: float, passes: int) -> State:
        """Refine at most so many times, nats above ε ever dearer, until the rise is allowed or nothing comes of it."""
        excess, idle = price, 0
        for _ in range(passes):
            before = self._rise(state)
            if before <= 1 or idle >= PATIENCE * passes:
                break
            excess *= DEARER
            state = self._pass(state, assembler, price, excess - price)
            idle = 0 if self._rise(state) < before else idle + 1
        return state

    def _passes(
        self, state: State, assembler: Assembler, price: float, passes: int, enough: float
    ) -> tuple[State, float]:
        """Refine so many times, or until less than `enough` ε is used; and the price, which falls while ε is left."""
        for _ in range(passes):
            state = self._pass(state, assembler, price)
            if self._rise(state) < enough:
                break
            price *= min(max(self._rise(state) / AIM, PRICE_FALLS), 1.0)
        return state, price

    def _pass(self, state: State, assembler: Assembler, price: float, excess: float = 0.0) -> State:
        """One pass of refinement."""
        limit = self.loss.original + AIM * self.epsilon
        state = Refinement(self.loss, self.weights, assembler, self.memory, price, limit, excess).run(state)
        self.offer(state)
        return state
