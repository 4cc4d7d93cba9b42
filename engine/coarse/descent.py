"""Descent: all integers of a coded network trained together, for the fewest bytes at which the loss stays within ε.

What is minimised is bits + price · loss, on a few examples at a time. The price of a nat is no parameter but what
keeps the loss where it should be: at first above ε, where a network becomes simple fast, at the end at ε. (Learned
quantisation with a price on entropy, as in Oktay et al. 2020; the price as a controller, as in dual ascent.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec.container import to_tensor
from .latents import Latents
from .loss import Loss
from .replay import Replayed
from .state import State

WARMING, SLOWING, SLOWEST = 10, 0.5, 0.1  # moves after which the pace is full; share after which it falls, and to what
HOLD = 0.6  # share of the moves during which the rise may stay where it is aimed at first
END = 1.3  # rise in ε that is aimed at near the end, where slowing brings it down
SETTLING, SETTLED = 25, 0.95  # further moves at most until a network is within ε, and the rise in ε aimed at then
FARTHEST, EMPTY = 0.6, 0.95  # shares of what the empty network loses: to aim at at most; as good as empty
LOST = 2.5  # times the rise aimed at: a network that loses so much goes back to where it was
NEAR = 1.5  # times the rise aimed at: where that is
LOOKS, FIRST_LOOK = 5, 2 / 3  # moves between looks at the loss on all examples; share of moves before the first
UNEXPLAINED, REGAINED = 0.5, 1.1  # times the pace where no tensor alone explains the loss; and then with every move
HOPELESS = 2.0**60  # rise in ε of a start, often infinite: no integer can be made so much finer
HEED = 0.999  # share of ε: float32 here and the decoder's arithmetic differ in the last bits
START_PRICE = 0.3  # of a nat, where scaling all steps together says 1
SMOOTHING, GATHERING, ANSWER = 0.5, 0.1, 1.5  # of the rise; of the price by distance from the aim, slow and at once
LARGEST_ERROR = 1.5  # e-folds from the aim


@dataclass
class Price:
    """Bits that a nat is worth: the more, the longer and the further the rise is above its aim."""

    first: float
    gathered: float = 0.0
    rise: float | None = None
    """Averaged over a few moves, in ε."""

    def at(self, rise: float, aim: float) -> float:
        """The price after another look at the rise."""
        rise = rise if math.isfinite(rise) else aim * math.exp(LARGEST_ERROR)  # or nothing would bring the mean back
        self.rise = rise if self.rise is None else SMOOTHING * self.rise + (1 - SMOOTHING) * rise
        error = min(max(math.log(max(self.rise, 0.05) / aim), -LARGEST_ERROR), LARGEST_ERROR)
        self.gathered += GATHERING * error
        return self.first * math.exp(self.gathered + ANSWER * error)


@dataclass
class Pace:
    """Share of the full pace of each of so many `moves`: at most `full`, slow at first and at last, and with caution
    after a loss that nothing explains, until it is regained.
    """

    full: float
    moves: int
    caution: float = 1.0

    def move(self, number: int) -> float:
        """The pace of a move."""
        falling = max(1 - (number + 1) / self.moves, 0.0) / (1 - SLOWING)
        pace = self.caution * self.full * (min((number + 1) / WARMING, 1.0) * min(falling + SLOWEST, 1.0))
        self.caution = min(REGAINED * self.caution, 1.0)
        return pace


class Descent:
    """Trains a coded network (`state`); the empty network's loss is `empty` nats more than the original's.

    `note` is told the estimated bytes and the loss on all examples at every look.
    """

    def __init__(
        self,
        loss: Loss,
        weights: Mapping[str, Tensor],
        state: State,
        empty: float,
        note: Callable[[float, float], None],
    ) -> None:
        self.loss, self.weights, self.empty, self.note = loss, weights, empty, note
        self._state = state
        codes = {name: candidate for name, candidate in state.candidates.items() if candidate.code.symbols is not None}
        self._fixed = dict(loss.placed({name: value for name, value in state.params.items() if name not in codes}))
        device = loss.placed.device
        self.latents = Latents(codes, weights, device)
        self._gradient = torch.zeros_like(self.latents.symbols, requires_grad=False)
        self._batch_loss, self._price, self._pace = torch.zeros(3, dtype=torch.float64, device=device)
        self._differentiate = Replayed(self._loss_and_gradients, device, self._batch_loss)
        self._move = Replayed(self._move_latents, device)

    def run(self, epsilon: float, moves: int, detour: float, pace: float, end: float = END) -> State | None:
        """The smallest network within ε that so many moves pass, at most as fast as `pace` (share of the usual).

        For most of them the rise is let up to `detour` times ε, where a network becomes simple faster; at the end it is
        to be `end`. From a loss above ε it comes down all the time. If the last network is not within ε a few more
        moves follow, until one is. None if none was, or if it starts hopelessly far. The next run goes on from the one
        found, or from the last.
        """
        empty = self.empty / epsilon
        start, hold = (self.loss(self._decoded(self.latents)) - self.loss.original) / epsilon, 0.0
        if start > HOPELESS:
            return None
        if start <= 1 or detour > end:
            start, hold = max(detour, end), HOLD
        else:  # steps that are right for a rise are its square root
            self.latents.refine(math.ceil(math.sqrt(start)))
        found, bits, kept = None, math.inf, self.latents.copy()
        price, paces = Price(START_PRICE * self.latents.bits / (2 * epsilon)), Pace(pace, moves)
        for number in range(moves + SETTLING if self.latents else 0):
            left = min((1 - number / moves) / (1 - hold), 1.0)
            aim = start**left * end ** (1 - left) if number < moves else min(SETTLED, end)
            aim = min(aim, FARTHEST * empty)
            self.loss.draw()
            self._differentiate()
            rise = (float(self._batch_loss) - self.loss.original) / epsilon
            limit = min(LOST * max(aim, 1.0), max(EMPTY * empty, aim))
            if not rise <= limit and self._lost(self.latents, limit * epsilon):  # and it is not the batch
                paces.caution *= self._recover(kept, limit * epsilon)
                continue
            if number % LOOKS == 0 and rise <= NEAR * max(aim, 1.0):
                kept.assign(self.latents)
            self._price.fill_(price.at(rise, aim))
            self._pace.fill_(paces.move(number))
            self._move()
            last = number >= moves - 1
            looks = last or (number % LOOKS == 0 and (not hold or number >= FIRST_LOOK * moves))
            if not looks or not self._look(epsilon):
                continue
            if (size := self.latents.bits) < bits:
                found, bits = self.latents.copy(), size
            if last:
                break
        if found is None:
            return None
        self.latents.assign(found)
        return self._coded()

    def _lost(self, latents: Latents, rise: float) -> bool:
        """Whether the loss, on the part of the examples that is always the same, has risen by more nats than this."""
        return not self.loss.on_part(self._decoded(latents)) <= self.loss.original_on_part + rise

    def _recover(self, kept: Latents, rise: float) -> float:
        """Go back to where the loss was right, and hold what alone would have let it rise by more nats than this.

        A unit of a few numbers (the bias of a query) may decide everything, and its gradient need not say so. Returns
        by what the pace has to change: not at all if something can be held.
        """
        lost, held = self.latents.copy(), 0
        self.latents.assign(kept)
        for place, mixed in kept.with_one_of(lost):
            if self._lost(mixed, rise):
                held += self.latents.hold(place, lost)
        return 1.0 if held else UNEXPLAINED

    def _loss_and_gradients(self) -> None:
        """The loss on the batch drawn last, and its slopes."""
        symbols = self.latents.symbols
        loss = self.loss.on_batch(self._fixed | self.latents.decode(symbols))
        self._batch_loss.copy_(loss.detach())
        self._gradient.copy_(torch.autograd.grad(loss, symbols, materialize_grads=True)[0])

    def _move_latents(self) -> None:
        self.latents.move(self._gradient, self._price, self._pace)

    def _decoded(self, latents: Latents) -> dict[str, Tensor]:
        with torch.no_grad():
            return self._fixed | latents.decode(latents.symbols)

    def _look(self, epsilon: float) -> bool:
        """Whether the network is within ε on all examples."""
        loss = self.loss(self._decoded(self.latents))
        self.note(self.latents.bits / 8, loss)
        return loss <= self.loss.original + HEED * epsilon

    def _coded(self) -> State:
        """The network as the decoder would have it."""
        codes = self.latents.codes()
        params = self._state.params | {
            name: to_tensor(code.decoded, tuple(self.weights[name].shape), self.weights[name].dtype)
            for name, code in codes.items()
        }
        return State(self._state.candidates | codes, params, self.loss(params))
