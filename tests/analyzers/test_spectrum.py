import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kolmogram.analyzers import ANALYZERS, TensorValues
from kolmogram.analyzers.spectrum import Spectrum, spectrum
from kolmogram.engine.statistics import tensor_statistics

positive_spectra = arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-3, 1e3)).map(lambda s: np.sort(s)[::-1])


def test_identity_uses_every_direction():
    found = spectrum(torch.eye(16))
    assert found.spectral_entropy == pytest.approx(math.log(16))
    assert found.effective_rank == pytest.approx(16)
    assert found.stable_rank == pytest.approx(16)
    assert found.spectral_norm == pytest.approx(1)
    assert found.frobenius_norm == pytest.approx(4)


def test_rank_one_uses_a_single_direction():
    found = spectrum(torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 4)))
    assert found.effective_rank == pytest.approx(1, abs=1e-4)
    assert found.stable_rank == pytest.approx(1, abs=1e-6)


def test_entropy_of_a_known_spectrum():
    # p = (3/4, 1/4): H = ln 4 − (3/4) ln 3
    found = spectrum(torch.diag(torch.tensor([3.0, 1.0])))
    assert found.spectral_entropy == pytest.approx(math.log(4) - 0.75 * math.log(3), rel=1e-6)
    assert found.stable_rank == pytest.approx(10 / 9, rel=1e-6)


def test_zero_matrix_has_no_entropy_but_norms():
    found = spectrum(torch.zeros(4, 3))
    assert math.isnan(found.spectral_entropy)
    assert math.isnan(found.effective_rank)
    assert math.isnan(found.stable_rank)
    assert found.spectral_norm == found.frobenius_norm == 0


def test_convolution_is_read_as_out_by_everything_else():
    weights = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(spectrum(weights).singular_values, spectrum(weights.reshape(8, 75)).singular_values)


def test_a_vector_has_no_spectrum():
    with pytest.raises(ValueError, match=r"needs a matrix, got shape \(5,\)"):
        spectrum(torch.ones(5))


@given(positive_spectra, st.floats(1e-6, 1e6))
def test_entropy_and_ranks_do_not_depend_on_scale(values, scale):
    one, other = Spectrum(values), Spectrum(values * scale)
    assert other.spectral_entropy == pytest.approx(one.spectral_entropy, abs=1e-9)
    assert other.stable_rank == pytest.approx(one.stable_rank, rel=1e-9)


@given(positive_spectra)
def test_ranks_stay_within_their_bounds(values):
    found = Spectrum(values)
    assert 1 - 1e-9 <= found.stable_rank <= len(values) + 1e-9
    assert 1 - 1e-9 <= found.effective_rank <= len(values) + 1e-9


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**31))
def test_entropy_does_not_depend_on_rotation_or_transposition(m, n, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(m, n, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))
    expected = spectrum(weights).spectral_entropy
    # float32 weights inside the kernels: entropies of well-conditioned matrices agree to that precision
    assert spectrum(q @ weights).spectral_entropy == pytest.approx(expected, abs=1e-4)
    assert spectrum(weights.T.contiguous()).spectral_entropy == pytest.approx(expected, abs=1e-4)


def test_columns_are_means_over_matrices_and_leave_out_what_has_no_rank():
    tensors = [
        TensorValues("a", 100, {"spectral_entropy": 1.0, "effective_rank": 2.0, "stable_rank": 1.0}),
        TensorValues("b", 300, {"spectral_entropy": 3.0, "effective_rank": 10.0, "stable_rank": 5.0}),
        TensorValues("bias", 1000, {}),
        TensorValues("zero", 1000, {"spectral_norm": 0.0, "frobenius_norm": 0.0}),
    ]
    columns = ANALYZERS["spectrum"].columns(tensors)
    assert columns == {"spectral_entropy": 2.0, "effective_rank": 8.0, "stable_rank": 4.0}


def test_columns_without_any_matrix_are_nan():
    assert all(math.isnan(value) for value in ANALYZERS["spectrum"].columns([]).values())


@pytest.mark.parametrize(("side", "ranks"), [(1, [1]), (3, [1, 2]), (4, [1, 2, 4]), (7, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_singular_values_are_given_at_every_power_of_two(side, ranks):
    (statistics,) = tensor_statistics([("w", torch.diag(torch.arange(side, 0.0, -1)))])
    values = ANALYZERS["spectrum"].tensor(statistics)
    found = {name: value for name, value in values.items() if name.startswith("singular_value@")}
    assert found == pytest.approx({f"singular_value@{k}": side + 1 - k for k in ranks})
