"""Integers in training stand for what their file would decode to, and go where the loss and the bytes pull them."""

import numpy as np
import pytest
import torch
from kolmogram.engine.coarse import latents as module
from kolmogram.engine.coarse.latents import DAMPING, MEMORY, MOMENTUM, PACE, REACH, STEP_PACE, STRETCH_PACE, Latents
from kolmogram.engine.coarse.tensor_coder import Candidate, direct_bits
from kolmogram.engine.codec.representation import (
    IDENTITY,
    Basis,
    BasisKind,
    Decoded,
    Kind,
    Representation,
    basis_matrix,
    step_size,
    to_weights,
)

FOURIER = Basis(BasisKind.FOURIER, 23)
PRICE, FULL = torch.tensor(100.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


def candidate(seed, m=23, n=10, bases=(IDENTITY, IDENTITY), step=-9, offset=0, scale=1.5):
    symbols = np.rint(np.random.default_rng(seed).laplace(scale=scale, size=(m, n))).astype(np.int64)
    transposed, bits = direct_bits(symbols)
    code = Representation(Kind.DIRECT, step, offset, bases, transposed, symbols)
    matrices = tuple(basis_matrix(basis, size, []) for basis, size in zip(bases, (m, n), strict=True))
    return Candidate(Decoded(code, to_weights(code, (m, n), matrices), matrices), bits, 0.0)


CODES = {
    "plain": candidate(0),
    "vector": candidate(1, n=1, offset=7),
    "waves": candidate(2, bases=(FOURIER, IDENTITY)),
    "tall": candidate(3, m=40, n=3, step=4),
    "right": candidate(4, m=6, n=23, bases=(IDENTITY, FOURIER)),
}


def in_training(codes=CODES, dtype=torch.float32):
    like = {name: torch.zeros(code.decoded.matrix.shape, dtype=dtype) for name, code in codes.items()}
    return Latents(codes, like, torch.device("cpu"))


def weights_of(latents):
    return {name: value.detach() for name, value in latents.decode(latents.symbols).items()}


def units_of(latents):
    """Bits of another unit of magnitude for every symbol."""
    unit = module._unit(latents._group_sums(latents._symbols.abs()), latents._counts)
    return unit.index_select(0, latents._group_of)


def nothing(latents):
    return torch.zeros_like(latents._values)


def test_they_start_as_their_codes():
    latents = in_training()
    for name, value in weights_of(latents).items():
        expected = CODES[name].decoded.matrix
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)  # float32 sums of at most 23
    assert latents.bits == pytest.approx(sum(code.bits for code in CODES.values()), rel=1e-5)
    for name, again in latents.codes().items():
        np.testing.assert_array_equal(again.decoded.matrix, CODES[name].decoded.matrix)


@pytest.mark.parametrize("name", CODES)
def test_they_start_where_the_weights_are_as_far_as_these_round_to_their_codes(name):
    code = CODES[name]
    step, generator = step_size(code.code.step), torch.Generator().manual_seed(0)
    off = torch.rand(code.decoded.matrix.shape, generator=generator, dtype=torch.float64) - 0.5  # in units
    pairs = zip(off.shape, code.decoded.bases, strict=True)
    left, right = (torch.eye(size) if basis is None else torch.from_numpy(basis) for size, basis in pairs)
    weights = torch.from_numpy(code.decoded.matrix) + step * (left.double().T @ off @ right.double())
    latents = Latents({name: code}, {name: weights.float()}, torch.device("cpu"))
    away = (latents._values - latents._symbols).view(latents._slots[0].groups, -1)
    expected = (off if code.code.transposed else off.T).clamp(-REACH, REACH).float()
    torch.testing.assert_close(away, expected, rtol=0, atol=1e-4)  # float32 weights and bases
    assert torch.equal(latents._values.round(), latents._symbols)


def test_weights_come_in_their_own_type_and_shape():
    like = {"plain": torch.zeros(23, 5, 2, dtype=torch.bfloat16)}
    latents = Latents({"plain": CODES["plain"]}, like, torch.device("cpu"))
    decoded = weights_of(latents)["plain"]
    assert (decoded.shape, decoded.dtype) == ((23, 5, 2), torch.bfloat16)


def test_finer_units_change_nothing_but_the_steps():
    latents = in_training()
    before, bits = weights_of(latents), latents.bits
    latents.refine(2)
    for name, value in weights_of(latents).items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-6)
    for name, fine in latents.codes().items():
        assert fine.code.step == CODES[name].code.step - 8, "an octave"
        np.testing.assert_allclose(fine.decoded.matrix, CODES[name].decoded.matrix, rtol=1e-12, atol=1e-12)
    assert latents.bits > bits


def test_finer_units_go_on_as_the_coarser_ones_would():
    latents = in_training()
    for _ in range(3):
        latents.move(torch.ones_like(latents._values), PRICE, FULL)
    before = latents._averages.copy()
    latents.refine(2)
    torch.testing.assert_close(latents._averages.gradient, before.gradient / 2)
    torch.testing.assert_close(latents._averages.square, before.square / 4)


def test_a_loss_is_followed_where_it_leads():
    latents = in_training()
    target = {name: 1.5 * value + 0.3 * step_size(CODES[name].code.step) for name, value in weights_of(latents).items()}

    def distance(symbols):
        decoded = latents.decode(symbols)
        return sum(((decoded[name] - target[name]) ** 2).sum() / (target[name] ** 2).sum() for name in target)

    before = float(distance(latents.symbols).detach())
    for _ in range(150):
        symbols = latents.symbols
        latents.move(torch.autograd.grad(distance(symbols), symbols)[0], torch.tensor(1e6), FULL)
    assert float(distance(latents.symbols).detach()) < 0.1 * before


def test_bytes_pull_to_zero_what_no_gradient_holds():
    latents = in_training()
    bits = latents.bits
    for _ in range(300):
        latents.move(nothing(latents), PRICE, FULL)
    decoded = weights_of(latents)
    assert not any(decoded[name].any() for name in decoded if name != "vector")
    assert len(decoded["vector"].unique()) == 1, "its offset is left"
    assert latents.bits < bits / 2


def test_a_move_is_adam_with_soft_thresholds(monkeypatch):
    """Against the formula in the plainest NumPy, steps apart."""
    monkeypatch.setattr(module, "STRETCH_PACE", 0.0)
    monkeypatch.setattr(module, "STEP_PACE", 0.0)
    code = candidate(5, m=6, n=5)
    latents = in_training({"one": code})
    values = latents._values.double().numpy()
    mean = square = np.zeros(30)
    for seen in (1, 2, 3):
        gradient = torch.randn(30, generator=torch.Generator().manual_seed(seen)) * 0.1
        units = units_of(latents).double().numpy()
        latents.move(gradient, PRICE, 0.5 * FULL)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient.numpy()
        square = MEMORY * square + (1 - MEMORY) * gradient.numpy() ** 2
        scale = 0.5 * PACE / (float(PRICE) * np.sqrt(square / (1 - MEMORY**seen)) + DAMPING)
        values = values - scale * float(PRICE) * mean / (1 - MOMENTUM**seen)
        values = np.sign(values) * np.maximum(np.abs(values) - scale * units, 0)
        np.testing.assert_allclose(latents._values.numpy(), values, rtol=1e-4, atol=1e-5)  # float32 against float64
        np.testing.assert_array_equal(latents._symbols.numpy(), np.rint(latents._values.numpy()))


def test_units_cost_what_they_add_to_the_bits():
    """One more of a thousand units in a group, by difference."""
    rows = np.random.default_rng(3).integers(-9, 10, (4, 250))
    code = Representation(Kind.DIRECT, 0, 0, (IDENTITY, IDENTITY), True, rows)
    latents = in_training({"one": Candidate(Decoded(code, rows.astype(float), (None, None)), 0.0, 0.0)})
    units, bits = units_of(latents), latents.bits
    sign = float(latents._symbols[0].sign()) or 1.0
    latents._symbols[0] += sign
    assert latents.bits - bits == pytest.approx(float(units[0]), rel=0.02)


def stretched(codes, gradient, monkeypatch):
    """Products of values and steps before and after a move that changes nothing but steps, and the log steps."""
    monkeypatch.setattr(module, "PACE", 0.0)
    monkeypatch.setattr(module, "STEP_PACE", 0.0)
    latents = in_training(codes)
    before = latents._values.double() * latents._log_steps.exp().repeat_interleave(230)
    steps = latents._log_steps.clone()
    latents.move(gradient(latents), PRICE, FULL)
    after = latents._values.double() * latents._log_steps.exp().repeat_interleave(230)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    return latents._log_steps - steps


def test_steps_become_coarser_where_that_saves_bytes_and_finer_where_noise_costs_more(monkeypatch):
    codes = {"many units": candidate(0, scale=4.0), "a lot of noise": candidate(1, scale=4.0)}

    def gradient(latents):
        away = latents._symbols - latents._values  # as if the weights wanted to be where rounding took them from
        return torch.cat([torch.zeros(230), away[230:] * 100])

    change = stretched(codes, gradient, monkeypatch)
    torch.testing.assert_close(change, torch.tensor([STRETCH_PACE, -STRETCH_PACE], dtype=torch.float64))


def test_lone_units_and_offsets_are_not_stretched(monkeypatch):
    lone = candidate(0, scale=0.5)
    np.clip(lone.code.symbols, -1, 1, out=lone.code.symbols)
    shifted = candidate(1, m=230, n=1, offset=9, scale=4.0)
    change = stretched({"lone": lone, "shifted": shifted}, lambda latents: torch.zeros(460), monkeypatch)
    assert not change.any()


def test_steps_go_against_the_slope_of_the_loss_along_them(monkeypatch):
    monkeypatch.setattr(module, "STRETCH_PACE", 0.0)
    latents = in_training({"up": candidate(0), "down": candidate(1), "shifted": candidate(2, m=230, n=1, offset=9)})
    steps = latents._log_steps.clone()
    gradient = latents._symbols.sign()  # of the sum of magnitudes
    gradient[230:460] *= -1
    gradient[460:] = 1.0  # of the sum: nine for each, whatever the symbols add up to
    assert latents._symbols[460:].sum().abs() < 9 * 230
    latents.move(gradient, PRICE, FULL)
    torch.testing.assert_close(
        latents._log_steps - steps, torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64) * STEP_PACE
    )


def test_gradients_that_are_no_numbers_are_not_followed():
    latents = in_training()
    gradient = nothing(latents)
    gradient[3], gradient[5] = float("nan"), float("inf")
    latents.move(gradient, PRICE, FULL)
    assert all(value.isfinite().all() for value in weights_of(latents).values())


def test_a_copy_moves_on_its_own():
    latents = in_training()
    other, before = latents.copy(), weights_of(latents)
    for _ in range(30):
        other.move(nothing(other), PRICE, FULL)
    assert other.bits < latents.bits
    for name, value in weights_of(latents).items():
        assert torch.equal(value, before[name])


def test_one_tensor_at_a_time_as_others_have_it():
    latents, other = in_training(), in_training()
    for _ in range(30):
        other.move(nothing(other), PRICE, FULL)
    ours, theirs = weights_of(latents), weights_of(other)
    for name, (_, mixed) in zip(CODES, latents.with_one_of(other), strict=True):
        for key, value in weights_of(mixed).items():
            assert torch.equal(value, (theirs if key == name else ours)[key])


def test_what_is_held_stays_where_bytes_pull_at_everything(monkeypatch):
    monkeypatch.setattr(module, "STRETCH_PACE", 0.0)
    latents, other = in_training(), in_training()
    for _ in range(30):
        other.move(nothing(other), PRICE, FULL)
    places = [place for place, _ in latents.with_one_of(other)]
    differ = latents._symbols[places[0]] != other._symbols[places[0]]
    kept = latents._symbols.clone()
    assert latents.hold(places[0], other) == differ.sum() > 0
    for _ in range(100):
        latents.move(nothing(latents), PRICE, FULL)
    assert torch.equal(latents._symbols[places[0]][differ], kept[places[0]][differ])
    assert not latents._symbols[places[0]][~differ].any()
    assert not latents._symbols[places[3]].any(), "nothing of another tensor is held"


def test_no_latents_at_all_are_no_error():
    latents = in_training({})
    assert len(latents) == 0
    assert latents.bits == 0
    assert latents.decode(latents.symbols) == {}
