"""Networks compared by samples of their tensors."""

import math

import numpy as np
from kolmogram.engine.audit.comparison import distances, placeable
from kolmogram.engine.audit.evidence import Evidence, TensorEvidence


def made(step, **samples):
    """Evidence of vectors."""
    tensors = [TensorEvidence(n, (len(v),), "float32", f"{n}{step}", False, 0, math.nan) for n, v in samples.items()]
    return Evidence(str(step), step, tuple(tensors), {n: np.asarray(v, np.float32) for n, v in samples.items()})


def test_distances_weigh_tensors_alike_whatever_their_scale():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 50))
    plain, scaled = (distances([made(i, a=a[i], b=k * b[i]) for i in range(3)]) for k in (1, 1000))
    np.testing.assert_allclose(scaled, plain, rtol=1e-3, atol=1e-3)


def test_few_samples_tell_no_places():
    values = np.random.default_rng(0).normal(size=(3, 600))
    assert len(placeable([made(i, a=values[i]) for i in range(3)])) == 3
    assert placeable([made(i, a=values[i, :20]) for i in range(3)]) == []
