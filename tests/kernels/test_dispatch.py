"""The face of the kernels: choices say why, inputs of every kind are defined, all backends agree."""

import pytest
import torch
from kolmogram.engine.errors import BackendError
from kolmogram.kernels import dispatch, fine_histogram, quantize, reference, selftest

STEPS = torch.tensor([0.002, 0.013, 0.05], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("KOLMOGRAM_BACKEND", raising=False)
    selftest._tried.cache_clear()
    yield
    selftest._tried.cache_clear()


def test_choice_follows_device_request_and_environment(monkeypatch):
    assert dispatch.choose_backend().name == "cpu"
    assert dispatch.choose_backend("cpu", "reference") == ("reference", "asked for")
    monkeypatch.setenv("KOLMOGRAM_BACKEND", "reference")
    assert dispatch.choose_backend("cpu").name == "reference"
    with pytest.raises(BackendError, match="unknown backend 'cuda'"):
        dispatch.choose_backend("cpu", "cuda")


def test_explicit_triton_never_falls_back(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="need a GPU"):
        dispatch.choose_backend("cpu", "triton")
    with pytest.raises(BackendError, match="need a GPU"):
        dispatch.quantized_entropy(torch.zeros(3), STEPS, backend="triton")


def test_failed_self_test_falls_to_the_safe_path_and_says_so(device, monkeypatch):
    monkeypatch.setattr(selftest, "interpreted", lambda: False)
    monkeypatch.setattr(selftest, "_obstacle", lambda _: None)
    monkeypatch.setattr(selftest, "_shared_doubt", lambda: None)
    monkeypatch.setattr(selftest, "SIZE", 1 << 12)
    launch = fine_histogram.fine_histogram
    wrong = lambda tensors, bases, programs, shared: launch(tensors, bases, programs, shared) + (1 if shared else 0)  # noqa: E731
    monkeypatch.setattr(fine_histogram, "fine_histogram", wrong)
    monkeypatch.setattr("kolmogram.kernels.reference.quantize_dequantize", _as_the_interpreter_rounds(device))
    shared, reason = selftest.counters_in(device)
    assert not shared
    assert "global memory (wrong fine histogram of torch.float32)" in reason
    selftest._tried.cache_clear()
    monkeypatch.setattr(fine_histogram, "fine_histogram", lambda *args: launch(*args) + 1)
    with pytest.raises(BackendError, match="wrong fine histogram"):
        dispatch.choose_backend(device, "triton")
    if device.type == "cuda":
        assert dispatch.choose_backend(device).name == "reference"


def test_a_failed_self_test_is_not_tried_again(device, monkeypatch):
    tried = []
    monkeypatch.setattr(selftest, "interpreted", lambda: False)
    monkeypatch.setattr(selftest, "_obstacle", lambda device: tried.append(device) or "no compiler")
    for _ in range(3):
        with pytest.raises(BackendError, match="no compiler"):
            selftest.counters_in(device)
    assert len(tried) == 1


@pytest.mark.parametrize("kernel", ["moments", "rates"])
def test_the_self_test_looks_at_every_kernel(kernel, device, monkeypatch):
    monkeypatch.setattr(selftest, "SIZE", 1 << 12)
    monkeypatch.setattr("kolmogram.kernels.reference.quantize_dequantize", _as_the_interpreter_rounds(device))
    assert selftest._miscount(device, shared=True) is None
    if kernel == "moments":
        wrong = reference.Moments(5, 0, 0.0, 1.0, 1.0, 1.0)
        monkeypatch.setattr("kolmogram.kernels.moments.moments", lambda tensors, programs: [wrong])
    else:
        monkeypatch.setattr("kolmogram.kernels.exact_rates.exact_rates", lambda *_: torch.ones(1, 1, 4).double())
    assert selftest._miscount(device, shared=True) == f"wrong {kernel} of torch.float32"


@pytest.mark.parametrize("what", ["counts", "weights"])
def test_the_self_test_looks_at_symbols_and_at_what_they_stand_for(what, device, monkeypatch):
    monkeypatch.setattr(selftest, "SIZE", 1 << 12)
    launch = quantize.quantize

    def wrong(*arguments):
        held, histogram = launch(*arguments)
        if what == "weights":
            return held + 1, histogram
        return held, reference.QuantizedHistogram(histogram.counts + 1, 0.0, 0)

    monkeypatch.setattr(quantize, "quantize", wrong)
    assert selftest._miscount(device, shared=True) == "wrong symbols of torch.float32"


def _as_the_interpreter_rounds(device):
    """The reference, but with the interpreter's cut from float32 to bfloat16 in place of rounding."""
    original = reference.quantize_dequantize

    def quantize_dequantize(weights, step):
        held, histogram = original(weights, step)
        if device.type == "cpu" and weights.dtype == torch.bfloat16:
            exact = reference.quantize(weights, step)[1]
            held = (exact.view(torch.int32) & -65536).view(torch.float32).to(torch.bfloat16)
        return held, histogram

    return quantize_dequantize


def test_unknown_triton_is_doubted(monkeypatch):
    monkeypatch.setattr("triton.__version__", "9.9.9")
    assert "9.9.9" in selftest._shared_doubt()


def assert_close(found, expected):
    for name, a, b in zip(expected._fields, found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True), (name, a, b)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
def test_every_dtype_agrees_with_the_reference(dtype):
    w = torch.randn(37, 111, generator=torch.Generator().manual_seed(0)).to(dtype)
    steps = STEPS if dtype.is_floating_point else STEPS * 100
    assert_close(dispatch.quantized_entropy(w, steps), dispatch.quantized_entropy(w, steps, backend="reference"))
    cpu, plain = dispatch.quantize_histogram(w, 0.5), dispatch.quantize_histogram(w, 0.5, backend="reference")
    assert torch.equal(cpu.counts, plain.counts)
    (a,), (b,) = dispatch.moments([w]), dispatch.moments([w], backend="reference")
    assert vars(a) == pytest.approx(vars(b), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
def test_degenerate_inputs(backend, device):
    for w in (torch.tensor(0.25), torch.randn(6, 4).T, torch.zeros(0), torch.full((5,), torch.nan)):
        w = w.to(device) if backend == "triton" else w
        found = dispatch.quantized_entropy(w, STEPS, backend=backend)
        assert_close(found, dispatch.QuantizedEntropy(*(column[0] for column in reference.rates(w.cpu(), STEPS))))
        finite = int(w.isfinite().sum())
        assert found.entropy_bits.isnan().all() == (finite == 0)
        held, histogram = dispatch.quantize_dequantize(w, 0.1, backend=backend)
        assert held.shape == w.shape
        assert int(histogram.counts.sum()) == finite
        assert histogram.nonfinite == w.numel() - finite
        assert dispatch.moments([w], backend=backend)[0].count == finite


def test_moments_leave_out_what_is_not_finite():
    w = torch.tensor([3.0, torch.nan, -4.0, torch.inf])
    for backend in ("cpu", "reference"):
        (m,) = dispatch.moments([w], backend)
        assert (m.count, m.nonfinite, m.mean, m.abs_max, m.frobenius) == (2, 2, -0.5, 4.0, 5.0)
        assert m.std == 3.5
    assert dispatch.moments([torch.zeros(3)])[0].std == 0.0
    far = torch.full((100_000,), 1e4) + torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert dispatch.moments([far])[0].std == pytest.approx(far.double().std(correction=0).item(), rel=1e-10)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_moments_of_float64_are_those_of_float32(backend):
    weights = torch.tensor([1e300, 1.0, 1 / 3], dtype=torch.float64)
    (found,), (single,) = dispatch.moments([weights], backend), dispatch.moments([weights.float()], backend)
    assert found == single
    assert (found.count, found.nonfinite) == (2, 1)


def test_moments_of_chunks_merge(monkeypatch):
    monkeypatch.setattr(dispatch, "CHUNK", 7)
    w = torch.cat([torch.full((9,), torch.nan), torch.randn(30), torch.full((8,), torch.inf)])
    (merged,), whole = dispatch.moments([w], "reference"), reference.moments(w)
    assert vars(merged) == pytest.approx(vars(whole), rel=1e-12)


def test_one_histogram_of_many_tensors(monkeypatch):
    monkeypatch.setattr(dispatch, "EXACT_BELOW", 100)
    w = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.02 for n in (5_000, 50, 700)]
    w += [w[0].bfloat16(), w[1].bfloat16(), torch.zeros(300)]
    histogram = dispatch.fine_histogram(w)
    together, own = histogram.rates(STEPS), histogram.rates(torch.outer(torch.arange(1.0, 7.0), STEPS))
    assert together.entropy_bits.shape == own.mse.shape == (len(w), 3)
    for i, tensor in enumerate(w):
        alone = dispatch.quantized_entropy(tensor, STEPS * (i + 1))
        assert_close(alone, type(alone)(*(column[i] for column in own)))
    for i in (1, 3, 4):
        assert_close(type(alone)(*(c[i] for c in together)), type(alone)(*(c[0] for c in reference.rates(w[i], STEPS))))


def test_triton_histograms_equal_the_cpu(device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr("kolmogram.kernels.rates.BLOCK", 4096)
    monkeypatch.setattr(dispatch, "EXACT_BELOW", 100)
    w = [torch.randn(4_000) * 0.02, torch.randn(3_000) * 1e9, torch.randn(2_000).bfloat16() * 1e-7]
    w[0][0] = torch.nan
    steps = torch.tensor([[0.013], [3e8], [5e-8]], dtype=torch.float64)
    found = dispatch.fine_histogram([t.to(device) for t in w], backend="triton").rates(steps)
    assert_close(found, dispatch.fine_histogram(w, backend="cpu").rates(steps))
    assert found.entropy_bits.isfinite().all()


def test_triton_finds_a_few_weights_above_the_usual_window(device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr("kolmogram.kernels.rates.BLOCK", 4096)
    monkeypatch.setattr(dispatch, "EXACT_BELOW", 100)
    w = torch.randn(4_000, generator=torch.Generator().manual_seed(1)) * 0.02
    w[5] = 300.0  # 2⁸ is where it ends
    steps = torch.tensor([0.013], dtype=torch.float64)
    found = dispatch.fine_histogram([w.to(device)], backend="triton").rates(steps)
    assert_close(found, dispatch.fine_histogram([w], backend="cpu").rates(steps))
    assert found.mse.isfinite().all()


def test_triton_does_not_answer_for_steps_too_small_for_a_symbol(device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr("kolmogram.kernels.rates.BLOCK", 4096)
    monkeypatch.setattr(dispatch, "EXACT_BELOW", 100)
    w = torch.randn(1_000, generator=torch.Generator().manual_seed(1)) + 1e3
    steps = torch.tensor([1e-8], dtype=torch.float64)
    for backend, where in (("cpu", "cpu"), ("triton", device)):
        assert dispatch.fine_histogram([w.to(where)], backend=backend).rates(steps).entropy_bits.isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
def test_every_other_column(backend, device):
    w = torch.randn(40, 60, generator=torch.Generator().manual_seed(1)) * 0.02
    w = (w.to(device) if backend == "triton" else w)[:, ::2]
    expected = dispatch.QuantizedEntropy(*(column[0] for column in reference.rates(w.cpu(), torch.tensor([0.01]))))
    assert_close(dispatch.quantized_entropy(w, [0.01], backend), expected)
    (found,), moments = dispatch.moments([w], backend), reference.moments(w.cpu())
    assert vars(found) == pytest.approx(vars(moments), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), 1e-45, torch.ones(3), torch.ones(2, 3)])
def test_impossible_steps_are_refused(step):
    with pytest.raises(ValueError, match="step"):
        dispatch.quantize_dequantize(torch.zeros(2, 5), step)


def test_complex_weights_are_refused():
    with pytest.raises(TypeError, match="real"):
        dispatch.quantized_entropy(torch.zeros(2, dtype=torch.complex64), STEPS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits():
    w = torch.zeros((1 << 31) + 9_000, dtype=torch.bfloat16, device="cuda")
    w[-1] = 1.0
    histogram = dispatch.quantize_histogram(w, 0.5)
    assert int(histogram.counts[reference.LARGEST_SYMBOL + 2]) == 1
    assert int(histogram.counts.sum()) == w.numel()
    assert dispatch.fine_histogram([w]).rates([0.5]).zero_fraction.item() == 1 - 1 / w.numel()
