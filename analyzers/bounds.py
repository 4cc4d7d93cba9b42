"""Generalisation bounds from the length of a file (docs/bounds.md derives every one of them).

A code fixed before the data gives every network h a word of C(h) bits, and Kraft's inequality Σ 2^−C(h) ≤ 1. A tail
bound at level δ·2^−C(h) for each h, and the union over all of them, give with probability 1 − δ over the sample a
statement about *every* h at once: so about the one that a search chose, whichever way it chose (Occam's razor: Blumer
et al. 1987; McAllester 1999, Theorem 1; Shalev-Shwartz & Ben-David 2014, Theorem 7.7). What the tail bound gets is

    nats = C·ln 2 + ln(1/δ)

Risks and bounds are shares (of examples) unless they are called losses, which are in nats per example.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-12
ALPHAS = tuple(2.0**-k for k in range(1, 17))
"""Shares of the uniform distribution to smooth predictions with; their choice costs log₂ 16 = 4 bits."""


@dataclass(frozen=True)
class Sample:
    """How the training examples came: i.i.d., or (given a `population`) a uniformly random subset of it."""

    size: int
    population: int | None = None

    @property
    def unseen(self) -> int:
        """Examples of the population that are not in the sample."""
        return 0 if self.population is None else self.population - self.size

    def unseen_mean(self, mean: float, population_mean: float) -> float:
        """Mean over the unseen examples, from those over the sample and over the whole population."""
        total = population_mean * (self.population or 0) - mean * self.size
        return min(total / self.unseen, 1.0) if self.unseen else math.nan


def complexity_nats(bits: float, delta: float) -> float:
    """What a word of `bits` pays at confidence 1 − `delta`: ln(1/(δ·2^−bits))."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is the probability that the bound may fail, between 0 and 1, not {delta}")
    return bits * math.log(2) - math.log(delta)


def hoeffding(risk: float, size: int, nats: float) -> float:
    """Risk ≤ r̂ + √(nats/2n): the finite-hypothesis bound (Hoeffding 1963, Theorem 2). I.i.d. examples; may exceed 1."""
    return risk + math.sqrt(nats / (2 * size))


def realisable(size: int, nats: float) -> float:
    """Risk ≤ 1 − exp(−nats/n), for a network without training errors: (1 − r)ⁿ is the chance to have none. I.i.d."""
    return -math.expm1(-nats / size)


def kl_inverse(risk: float, exponent: float) -> float:
    """The largest r with kl(risk ‖ r) ≤ exponent: a bound on the risk where `exponent` is nats/n.

    For the mean of i.i.d. losses in [0, 1] (Hoeffding 1963, Theorem 1; Langford 2005, §3); never above
    `hoeffding` (Pinsker), equal to `realisable` at risk 0.
    """
    return _largest(lambda r: binary_kl(risk, r), risk, 1.0, exponent)


def binary_kl(q: float, p: float) -> float:
    """kl(q ‖ p) in nats between Bernoulli distributions, precise where q and p are close or near 0."""
    return max(_kl_term(q, p, p - q) + _kl_term(1 - q, 1 - p, q - p), 0.0)


def _kl_term(q: float, p: float, difference: float) -> float:
    """q·ln(q/p), `difference` = p − q given apart since it may be lost in p and q."""
    if q == 0 or p == 0:
        return 0.0 if q == 0 else math.inf
    close = abs(difference) < q / 2
    return -q * math.log1p(difference / q) if close or q == 1 else q * (math.log(q) - math.log(p))


def mean_bound(mean: float, sample: Sample, nats: float) -> float:
    """Bound on the mean of a loss in [0, 1] over the population, from its mean over the sample.

    I.i.d.: `kl_inverse`. A random subset without replacement obeys the same bound (Hoeffding 1963, Theorem 4), and so
    does its complement of N − n examples, whose mean lies above μ just where the sample's lies below. Both bound the
    probability of one event, so that the better one may be taken (docs/bounds.md).
    """
    bound = kl_inverse(mean, nats / sample.size)
    if not sample.unseen:
        return bound if sample.population is None else mean
    ratio = sample.size / sample.unseen
    highest = (1 + ratio * mean) / (1 + ratio)  # every unseen loss is 1

    def exponent(mu: float) -> float:
        return binary_kl(min(mu + ratio * (mu - mean), 1.0), mu)

    return min(bound, _largest(exponent, mean, highest, nats / sample.unseen))


def most_errors(errors: int, sample: Sample, nats: float) -> int:
    """The most wrong answers in the whole population that are compatible with `errors` in a random subset of it.

    The largest K with P(X ≤ errors) > exp(−nats), X hypergeometric: an exact inversion, no inequality but the union
    bound. Never above n·kl or Serfling's (1974) bound, which are upper bounds of the same tail.
    """
    if sample.population is None:
        raise ValueError("a sample without a population has no number of errors in it")
    low, high = errors, errors + sample.unseen
    while low < high:
        middle = (low + high + 1) // 2
        if log_hypergeometric_tail(errors, middle, sample) > -nats:
            low = middle
        else:
            high = middle - 1
    return low


def log_hypergeometric_tail(errors: int, wrong: int, sample: Sample) -> float:
    """Log of P(X ≤ errors), X the number of the population's `wrong` answers among the sample's n."""
    n, population = sample.size, sample.population or 0
    right = population - wrong
    most, least = min(errors, wrong), max(0, n - right)
    if most < least:
        return -math.inf
    top = _log_binomial(wrong, most) + _log_binomial(right, n - most) - _log_binomial(population, n)
    i = np.arange(most, least, -1, dtype=np.float64)  # the terms below, each by its ratio to the one above
    terms = np.concatenate([[0.0], np.cumsum(np.log(i * (right - n + i) / ((wrong - i + 1) * (n - i + 1))))])
    peak = float(terms.max())
    return min(top + peak + math.log(float(np.exp(terms - peak).sum())), 0.0)


@dataclass(frozen=True)
class ErrorBounds:
    """Bounds on the share of wrong answers; each holds with probability 1 − δ, and so do all together.

    They follow from one another or bound the same tail. NaN: does not apply.
    """

    hoeffding: float
    realisable: float
    kl: float
    population: float
    """The tightest that the sampling allows: the exact hypergeometric one for a subset, else `kl`."""
    unseen: float
    """On the examples that were not in the training set, where they are known to exist."""


def error_bounds(errors: int, sample: Sample, nats: float) -> ErrorBounds:
    """All bounds for a network that is wrong on `errors` of its training examples."""
    risk = errors / sample.size
    kl = kl_inverse(risk, nats / sample.size)
    zero = realisable(sample.size, nats) if errors == 0 else math.nan
    if sample.population is None:
        return ErrorBounds(hoeffding(risk, sample.size, nats), zero, kl, kl, math.nan)
    wrong = most_errors(errors, sample, nats)
    unseen = (wrong - errors) / sample.unseen if sample.unseen else math.nan
    return ErrorBounds(hoeffding(risk, sample.size, nats), zero, kl, wrong / sample.population, unseen)


@dataclass(frozen=True)
class LossBound:
    """Bound on the mean cross-entropy of smoothed predictions, nats per example."""

    population: float
    unseen: float
    alpha: float
    """The share of the uniform distribution in them."""


def loss_bound(losses: NDArray[np.float64], classes: int, sample: Sample, nats: float) -> LossBound:
    """The best bound over `ALPHAS` on the cross-entropy of (1 − α)·p(y|x) + α/classes, from (n,) losses −ln p in nats.

    Smoothing bounds the loss: its range is ln(1 + (1 − α)·classes/α) (Lotfi et al. 2024, arXiv 2312.17173: prediction
    smoothing). α is chosen by the data; its ln(number of choices) nats are added here.
    """
    bounds = (_smoothed_bound(losses, classes, alpha, sample, nats + math.log(len(ALPHAS))) for alpha in ALPHAS)
    return min(bounds, key=lambda bound: bound.population)


def _smoothed_bound(losses: NDArray[np.float64], classes: int, alpha: float, sample: Sample, nats: float) -> LossBound:
    smoothed = -np.log((1 - alpha) * np.exp(-losses) + alpha / classes)
    lowest, highest = -math.log(1 - alpha + alpha / classes), math.log(classes / alpha)
    width = highest - lowest
    mean = min(max((float(smoothed.mean()) - lowest) / width, 0.0), 1.0)
    bound = mean_bound(mean, sample, nats)
    unseen = sample.unseen_mean(mean, bound)
    return LossBound(lowest + width * bound, lowest + width * unseen, alpha)


def _largest(increasing: Callable[[float], float], low: float, high: float, limit: float) -> float:
    """The largest x in [low, high] with increasing(x) ≤ limit, from above, within TOLERANCE."""
    if increasing(high) <= limit:
        return high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) <= limit else (low, middle)
    return high


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
