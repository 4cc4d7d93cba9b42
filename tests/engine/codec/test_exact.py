"""The decoder's own arithmetic: right to float64, and the same bits wherever it runs."""

import zlib

import numpy as np
import pytest
from kolmogram.engine.codec.exact import complete_basis, fourier_basis, is_prime, multiplicative_basis, product


def test_product_is_the_matrix_product():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(13, 7)), rng.normal(size=(7, 21))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("period", [1, 2, 5, 8, 97, 113, 256])
def test_fourier_basis_is_orthonormal_and_made_of_waves(period):
    basis = fourier_basis(period)
    np.testing.assert_allclose(basis @ basis.T, np.eye(period), atol=1e-13)
    for frequency in range(1, (period + 1) // 2):
        wave = np.cos(2 * np.pi * frequency * (np.arange(period) + 0.3) / period)
        energy = (basis @ wave) ** 2
        assert energy[2 * frequency - 1 : 2 * frequency + 1].sum() == pytest.approx(energy.sum(), rel=1e-12)


def test_fourier_basis_has_the_same_bits_everywhere():
    assert zlib.crc32(fourier_basis(113).tobytes()) == 4170226536


def test_complete_basis_begins_with_the_span_of_its_vectors():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(9, 30))
    vectors[4] = 2 * vectors[1] - vectors[3]
    basis = complete_basis(vectors)
    np.testing.assert_allclose(basis @ basis.T, np.eye(30), atol=1e-12)
    seen = vectors @ basis.T
    assert np.abs(seen[:4][np.triu_indices(4, 1)]).max() < 1e-12
    assert np.abs(seen[:, 8:]).max() < 1e-12, "eight independent vectors span eight directions"


@pytest.mark.parametrize("vectors", [np.zeros((3, 5)), np.eye(5), np.ones((7, 5)), np.full((1, 5), 1e-200)])
def test_complete_basis_of_degenerate_vectors_is_still_orthonormal(vectors):
    basis = complete_basis(vectors)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-12)


def test_multiplying_only_turns_the_pairs_of_a_multiplicative_basis():
    prime, factor = 23, 7
    basis = multiplicative_basis(prime)
    np.testing.assert_allclose(basis @ basis.T, np.eye(prime - 1), atol=1e-13)
    multiplied = basis[:, np.arange(1, prime) * factor % prime - 1]
    coefficients = multiplied @ basis.T
    pair = (np.arange(prime - 1) + 1) // 2  # constant; cos 1, sin 1; cos 2, sin 2; …
    assert np.abs(coefficients[pair[:, None] != pair]).max() < 1e-13
    np.testing.assert_allclose(coefficients @ coefficients.T, np.eye(prime - 1), atol=1e-12)


def test_primes():
    assert [n for n in range(-1, 32) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]
