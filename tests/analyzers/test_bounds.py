"""Bounds against closed forms, exact tails and simulation: where they fail more often than δ, they are no bounds."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kolmogram.analyzers.bounds import (
    ALPHAS,
    Sample,
    binary_kl,
    complexity_nats,
    error_bounds,
    hoeffding,
    kl_inverse,
    log_hypergeometric_tail,
    loss_bound,
    mean_bound,
    most_errors,
    realisable,
)

DELTA = 0.05
TRIALS = 10_000
RISKS = st.floats(0, 1)
NATS = st.floats(1e-3, 1e4)
SIZES = st.integers(1, 10**6)


# ── closed forms ──


@given(NATS, SIZES)
def test_at_no_error_the_kl_inverse_is_the_realisable_bound(nats, size):
    assert kl_inverse(0.0, nats / size) == pytest.approx(realisable(size, nats), abs=1e-9)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-8, 30))
def test_the_kl_inverse_solves_its_equation_from_above(risk, exponent):
    bound = kl_inverse(risk, exponent)
    assert bound == 1 or binary_kl(risk, bound) >= exponent * (1 - 1e-9)
    assert bound - 1e-9 <= risk or binary_kl(risk, bound - 1e-9) <= exponent


@given(RISKS, NATS, SIZES)
def test_kl_is_never_above_hoeffding_and_never_below_the_training_error(risk, nats, size):
    assert risk <= kl_inverse(risk, nats / size) <= hoeffding(risk, size, nats) + 1e-9


def test_kl_is_a_divergence():
    assert binary_kl(0.3, 0.3) == 0
    assert binary_kl(0.0, 0.4) == pytest.approx(-math.log(0.6))
    assert binary_kl(1.0, 0.4) == pytest.approx(-math.log(0.4))
    assert binary_kl(0.5, 1.0) == binary_kl(0.5, 0.0) == math.inf
    assert binary_kl(0.5, 0.5 + 1e-7) == pytest.approx(2e-14, rel=1e-6)  # (p − q)²/2q(1 − q), no digits lost


@given(st.integers(2, 60), st.data())
def test_the_hypergeometric_tail_is_exact(population, data):
    size = data.draw(st.integers(1, population))
    wrong = data.draw(st.integers(0, population))
    errors = data.draw(st.integers(0, size))
    ways = sum(comb(wrong, i) * comb(population - wrong, size - i) for i in range(min(errors, wrong) + 1))
    exact = Fraction(ways, comb(population, size))
    tail = log_hypergeometric_tail(errors, wrong, Sample(size, population))
    assert math.exp(tail) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


@given(st.integers(2, 40), st.floats(0.01, 20), st.data())
def test_most_errors_is_the_last_number_that_the_sample_allows(population, nats, data):
    size = data.draw(st.integers(1, population))
    errors = data.draw(st.integers(0, size))
    sample = Sample(size, population)
    allowed = range(errors, errors + sample.unseen + 1)
    likely = [wrong for wrong in allowed if log_hypergeometric_tail(errors, wrong, sample) > -nats]
    assert most_errors(errors, sample, nats) == max(likely, default=errors)


def test_a_half_seen_population_without_an_error():
    """P(no error in half) ≈ 2^−K: each bit of complexity allows one wrong answer more."""
    sample = Sample(50_000, 100_000)
    assert most_errors(0, sample, 40 * math.log(2)) == pytest.approx(40, abs=1)


# ── order and limits ──


@given(st.integers(0, 300), NATS, st.floats(0, 100), st.sampled_from([None, 301, 400, 10**5]))
def test_bounds_grow_with_complexity_and_with_errors(errors, nats, more, population):
    sample = Sample(300, population)
    bounds = error_bounds(errors, sample, nats)
    for worse in (error_bounds(errors, sample, nats + more), error_bounds(min(errors + 1, 300), sample, nats)):
        for name in ("hoeffding", "kl", "population", "unseen"):
            now, then = getattr(bounds, name), getattr(worse, name)
            assert math.isnan(now) or then >= now - 1e-9
    assert bounds.population <= bounds.kl + 1e-9
    assert math.isnan(bounds.realisable) == (errors > 0)


@given(RISKS, NATS, SIZES)
def test_bounds_shrink_with_more_examples(risk, nats, size):
    assert kl_inverse(risk, nats / (2 * size)) <= kl_inverse(risk, nats / size) + 1e-12
    assert realisable(2 * size, nats) <= realisable(size, nats)


def test_less_confidence_is_cheaper_and_bits_cost_ln_2():
    assert complexity_nats(100, 0.1) < complexity_nats(100, 0.05)
    assert complexity_nats(101, 0.05) - complexity_nats(100, 0.05) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="delta"):
        complexity_nats(1, 0)


@given(RISKS, NATS, st.integers(1, 999))
def test_a_subset_is_never_worse_than_independent_draws(mean, nats, size):
    whole = mean_bound(mean, Sample(size), nats)
    part = mean_bound(mean, Sample(size, 1000), nats)
    assert mean - 1e-12 <= part <= whole + 1e-12


def test_who_has_seen_everything_knows_the_risk():
    assert mean_bound(0.25, Sample(100, 100), 1e6) == 0.25
    bounds = error_bounds(25, Sample(100, 100), 1e6)
    assert bounds.population == 0.25
    assert math.isnan(bounds.unseen)


def test_of_a_large_population_a_subset_is_as_good_as_independent_draws():
    independent = error_bounds(20, Sample(1000), 50.0)
    subset = error_bounds(20, Sample(1000, 10**7), 50.0)
    assert math.isnan(independent.unseen)
    assert subset.population == pytest.approx(independent.kl, rel=0.05)  # the exact tail is a little tighter


# ── cross-entropy ──


def test_losses_below_chance_are_certified_and_worse_ones_are_not_above_what_smoothing_allows():
    good = loss_bound(np.full(20_000, 0.05), 100, Sample(20_000), 2000.0)
    assert 0.05 < good.population < math.log(100)
    bad = loss_bound(np.full(20_000, 50.0), 100, Sample(20_000), 2000.0)
    assert bad.population >= math.log(100)
    assert bad.alpha == 0.5
    assert bad.population <= math.log(100 / 0.5) + 1e-9


@given(st.lists(st.floats(0, 30), min_size=1, max_size=20), NATS)
def test_a_bound_on_the_loss_is_above_the_smoothed_training_loss(losses, nats):
    losses = np.array(losses)
    bound = loss_bound(losses, 10, Sample(len(losses), 50), nats)
    smoothed = -np.log((1 - bound.alpha) * np.exp(-losses) + bound.alpha / 10)
    assert bound.population >= smoothed.mean() - 1e-9
    assert bound.unseen >= bound.population - 1e-9


def test_the_choice_of_the_smoothing_is_paid_for():
    losses, sample = np.full(1000, 0.1), Sample(1000, 5000)
    found = loss_bound(losses, 10, sample, 50.0)
    lowest, highest = -math.log(1 - found.alpha + found.alpha / 10), math.log(10 / found.alpha)
    smoothed = -math.log((1 - found.alpha) * math.exp(-0.1) + found.alpha / 10)
    paid = mean_bound((smoothed - lowest) / (highest - lowest), sample, 50.0 + math.log(len(ALPHAS)))
    assert found.population == pytest.approx(lowest + (highest - lowest) * paid, rel=1e-9)


# ── coverage by simulation ──


def chosen_failures(bound_of, errors, truth):
    """How often the network with the most promising bound breaks it, over trials (rows) of networks (columns)."""
    bounds = np.array([bound_of(k) for k in range(errors.max() + 1)])[errors]
    best = bounds.argmin(1)
    return float((truth > bounds[np.arange(len(bounds)), best] + 1e-12).mean())


def allowed(delta):
    return delta + 3 * math.sqrt(delta * (1 - delta) / TRIALS)


@pytest.mark.parametrize("population", [None, 200])
def test_the_best_of_many_networks_breaks_its_bound_in_at_most_delta_of_all_samples(population):
    """256 networks of 8 bits and the same known risk: the luckiest is chosen after seeing the sample."""
    size, networks, wrong = 100, 256, 60
    random = np.random.default_rng(0)
    if population is None:
        truth, errors = wrong / 200, random.binomial(size, wrong / 200, (TRIALS, networks))
    else:
        truth, errors = wrong / population, random.hypergeometric(wrong, 140, size, (TRIALS, networks))
    sample = Sample(size, population)
    paid, unpaid = complexity_nats(8, DELTA), complexity_nats(0, DELTA)
    assert chosen_failures(lambda k: error_bounds(k, sample, paid).population, errors, truth) <= allowed(DELTA)
    assert chosen_failures(lambda k: error_bounds(k, sample, paid).hoeffding, errors, truth) <= allowed(DELTA)
    # Who does not pay for the choice is wrong most of the time.
    assert chosen_failures(lambda k: error_bounds(k, sample, unpaid).population, errors, truth) > 0.8


def test_the_exact_bound_is_tight_where_nothing_is_chosen():
    """One network, no bits: it fails in little less than δ of all samples, which Hoeffding's does not nearly do."""
    random = np.random.default_rng(1)
    errors = random.hypergeometric(500, 500, 500, (TRIALS, 1))
    sample, nats = Sample(500, 1000), complexity_nats(0, DELTA)
    exact = chosen_failures(lambda k: error_bounds(k, sample, nats).population, errors, 0.5)
    assert DELTA / 2 < exact <= allowed(DELTA)
    assert chosen_failures(lambda k: error_bounds(k, sample, nats).hoeffding, errors, 0.5) < DELTA / 10


def test_files_whose_ends_nobody_pays_for_break_their_bounds():
    """All 2^b files of each of b = 0 … 7 bits: with a code for the length the bound holds, without one it does not."""
    wrong, sample = 500, Sample(500, 1000)
    random = np.random.default_rng(2)
    bits = np.repeat(np.arange(8), 2 ** np.arange(8))
    errors = random.hypergeometric(wrong, 1000 - wrong, sample.size, (TRIALS, len(bits)))
    possible = range(errors.min(), errors.max() + 1)

    def failures(costs):
        table = np.array([[most_errors(k, sample, complexity_nats(c, DELTA)) for k in possible] for c in costs])
        return float((wrong > table[bits, errors - errors.min()].min(1)).mean())

    assert failures([b + 3 for b in range(8)]) <= allowed(DELTA)  # three bits say which of eight lengths
    assert failures(range(8)) > 3 * DELTA


@pytest.mark.parametrize("size", [50, 160])
def test_mean_bounds_of_a_finite_population_hold(size):
    """Losses in [0, 1], drawn without replacement from 200, with half and with most of them seen."""
    random = np.random.default_rng(3)
    losses = random.beta(0.3, 1.0, 200)
    order = random.permuted(np.tile(losses, (TRIALS, 1)), axis=1)
    means = order[:, :size].mean(1)
    sample, nats = Sample(size, 200), complexity_nats(0, DELTA)
    grid = np.linspace(0, 1, 401)  # the bound grows with the mean: the next lower grid point's is a lower one
    bounds = np.array([mean_bound(float(mean), sample, nats) for mean in grid])
    lower = bounds[np.floor(means * 400).astype(int)]
    assert (losses.mean() > lower).mean() <= allowed(DELTA)
