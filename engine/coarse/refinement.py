"""Integers moved after rounding, to where the loss wants them now that all other tensors are coarse, too.

Rounding knows the rest of the network by the curvature alone. Here the loss itself is asked (as in adaptive rounding,
Nagel et al. 2020, but of the whole network): its gradient at the coarse network, less that at the original, so that
without errors nothing moves, however much the network has still to learn. A tensor is rounded again, at its rank and
with the step that the price asks for, towards where a damped Newton step from its integers would take it; what does
not pay is taken back.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ...kernels.threads import with_one_blas_thread_each
from ..codec.representation import OCTAVE, Kind, Representation, nearest_step, step_size
from .passes import Pass
from .rounding import Array, Metric, round_matrix
from .state import State
from .tensor_coder import BITS_PER_NOISE, Candidate, View, recoded

SOFTEN, STIFFEN = 0.6, 2.0  # how the stiffness of a tensor changes where a move paid, and where it did not
SOFTEST, RIGID = 0.02, 100.0  # beyond the last it is left alone for a while
PETTY = 5e-4  # share of all bytes below which a promise is not worth asking the loss
SIDE_DAMPING = 0.1  # of the metric between the components of a factor code


@dataclass
class Refinement(Pass):
    """A pass that moves the integers of tensors.

    Nats above the limit are dearer by `excess`, so that what is spent to come below it is spent on no more than that.
    """

    excess: float = 0.0

    def run(self, before: State) -> State:
        """The state with the integers of its tensors moved."""
        state = before.copy()
        limit = self._limit_on_part(state)
        gradients = self._gradients(before)
        names = [name for name, gradient in gradients.items() if gradient.isfinite().all() and self._moves(name, state)]
        # Converted here: torch called from several threads keeps a team of OpenMP threads for each, and all of them
        # sleep between operations, which doubles the time of every loss from then on.
        arrays = {name: gradients[name].float().numpy() for name in names}
        price = self._price_at(state, limit)
        moved = with_one_blas_thread_each(lambda name: self._moved(name, state, arrays[name], price), names)
        for name, candidate in zip(names, moved, strict=True):
            paid = candidate is None or self._try(state, name, candidate, gradients[name], limit)
            stiffness = self.memory.stiffness(name) * (SOFTEN if paid else STIFFEN)
            self.memory.stiffnesses[name] = max(stiffness, SOFTEST)
        self._finish(state)
        return state

    def _price_at(self, state: State, limit: float) -> float:
        """Bytes that a nat less is worth where a state is, `limit` being that of the loss on the part."""
        return self.price + (self.excess if state.part_loss > limit else 0.0)

    def _moves(self, name: str, state: State) -> bool:
        """Whether a tensor has integers and is not too stiff: such a one gets softer by waiting."""
        if state.candidates[name].code.symbols is None:
            return False
        rigid = self.memory.stiffness(name) > RIGID
        if rigid:
            self.memory.stiffnesses[name] *= SOFTEN
        return not rigid

    def _moved(self, name: str, state: State, gradient: Array, price: float) -> Candidate | None:
        """A tensor's code with its integers where the gradient wants them, and its step; None if they are there."""
        old, stiffness = state.candidates[name], self.memory.stiffness(name)
        assert old.code.symbols is not None
        view = self.assembler.view(name, old.code.bases)
        matrix = gradient.reshape(old.decoded.matrix.shape)
        for axis, basis in enumerate(view.matrices):
            if basis is not None:
                matrix = basis @ matrix if axis == 0 else matrix @ basis.T
        move = _direct if old.code.kind == Kind.DIRECT else _factors
        # ½ · stiffness · tr(Eᵀ A E G) nats for an error E: so much distortion is worth a bit
        code = move(old.code, view, matrix / stiffness, 1 / (4 * price * stiffness))
        assert code.symbols is not None
        same = code.step == old.code.step and np.array_equal(code.symbols, old.code.symbols)
        return None if same else recoded(old, code)

    def _try(self, state: State, name: str, candidate: Candidate, gradient: Tensor, limit: float) -> bool:
        """Take a code if it pays by the real loss, which is asked where enough is promised; false if it does not."""
        value = self._value(name, candidate)
        saved = (state.candidates[name].bits - candidate.bits) / 8
        slope = float((gradient * (value - state.params[name])).sum())
        gained = -self._price_at(state, limit) * slope / 2  # a Newton step keeps half of its slope
        if saved + gained < PETTY * state.estimated_bytes:
            return True
        loss = self.loss.on_part({**state.params, name: value})
        gained = self.price * (state.part_loss - loss)
        gained += self.excess * (max(state.part_loss - limit, 0.0) - max(loss - limit, 0.0))
        if saved + gained <= 0 or loss > max(limit, state.part_loss):
            return False
        if candidate.code.symbols is not None:
            coarser = (candidate.code.step - state.candidates[name].code.step) / OCTAVE
            state.levels[name] += coarser * math.log(2)
        state.candidates[name], state.params[name], state.part_loss = candidate, value, loss
        return True


def _direct(code: Representation, view: View, gradient: Array, slope: float) -> Representation:
    """A direct code moved along a `gradient` ([m, n]) in its bases."""
    assert code.symbols is not None
    rows, columns = view.fitting
    step = _fitting_step(code.step, rows.conditional * columns.conditional, slope)
    size, new_size = step_size(code.step), step_size(step)
    offset = round(code.offset * size / new_size)
    wanted = (code.symbols + code.offset) * size - offset * new_size - _newton(gradient, rows, columns)
    symbols = round_matrix(wanted, rows, columns, np.full(len(wanted), new_size), slope)
    return replace(code, step=step, offset=offset, symbols=symbols)


def _factors(code: Representation, view: View, gradient: Array, slope: float) -> Representation:
    """A factor code Σ_i Δ/‖a_i‖ · a_i b_iᵀ, each side moved as if the other stayed."""
    assert code.symbols is not None
    rows, columns = view.fitting
    size, m = step_size(code.step), len(gradient)
    left, right = (np.ascontiguousarray(side.T, np.float32) for side in (code.symbols[:m], code.symbols[m:]))
    norms = np.sqrt(np.maximum((left * left).sum(1, keepdims=True), 1.0))
    unit, scaled = left / norms, right * (size / norms)

    inner = Metric(unit @ rows.times(unit.T), SIDE_DAMPING)
    step = _fitting_step(code.step, inner.conditional * columns.conditional, slope)
    wanted = right * size - _newton(unit @ gradient, inner, columns)
    new_right = round_matrix(wanted, inner, columns, np.full(len(wanted), step_size(step)), slope)

    inner = Metric(scaled @ columns.times(scaled.T), SIDE_DAMPING)
    turning = scaled @ gradient.T
    turning -= unit * (unit * turning).sum(1, keepdims=True)  # their lengths are of no consequence
    wanted = left - _newton(turning, inner, rows)
    new_left = round_matrix(wanted, inner, rows, np.full(len(wanted), step_size(step) / size), slope)
    return replace(code, step=step, symbols=np.concatenate([new_left, new_right], 1).T)


def _fitting_step(step: int, price: float, slope: float) -> int:
    """The step nearest to `step` within an octave at which rounding costs as much as the bits it saves.

    `price` is that of a unit error, `slope` the distortion that a bit is worth.
    """
    best = nearest_step(math.sqrt(slope / (BITS_PER_NOISE * price)))
    return min(max(best, step - OCTAVE), step + OCTAVE)


def _newton(gradient: Array, rows: Metric, columns: Metric) -> Array:
    """The gradient ([m, n]) in the inverse metrics of its two sides."""
    across = columns.solve(np.ascontiguousarray(gradient.T))
    return np.ascontiguousarray(rows.solve(np.ascontiguousarray(across.T)))
