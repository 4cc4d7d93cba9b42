"""Whether the Triton kernels may be used on a device: tried once, against their definitions, before their first use."""

import functools
import os

import torch

from ..engine.errors import BackendError
from . import reference

KNOWN_TRITON = ("3.6.0", "3.7.1")  # whose machine code was read: see tests/kernels/test_aot.py
SIZE, SMALL = 1 << 20, 1 << 12  # weights it counts, and of a small tensor
PROGRAMS_PER_PROCESSOR = 2


def counters_in(device: torch.device) -> tuple[bool, str]:
    """Whether counters live in shared memory there (else in global memory, which is slower), and why.

    BackendError where neither counts correctly.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    shared, reason = _tried(device)
    if shared is None:
        raise BackendError(reason)
    return shared, reason


@functools.cache
def _tried(device: torch.device) -> tuple[bool | None, str]:
    """What `counters_in` says, once for each device; None where neither counts correctly."""
    obstacle = _obstacle(device)
    if obstacle:
        return None, obstacle
    if interpreted():
        from . import interpreter

        interpreter.install()
        return True, "interpreted by Triton on the CPU, for tests"
    doubt = _shared_doubt()
    if doubt is None:
        doubt = _miscount(device, shared=True)
        if doubt is None:
            return True, "counters in shared memory, self-test passed"
    failure = _miscount(device, shared=False)
    if failure:
        return None, f"the Triton kernels fail their self-test on {device}: {failure}"
    return False, f"counters in global memory ({doubt}), self-test passed"


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def programs(device: torch.device) -> int:
    """How many programs share the work there."""
    if device.type != "cuda":
        return 4
    return PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def _obstacle(device: torch.device) -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if device.type != "cuda" and not interpreted():
        return f"Triton kernels need a GPU and the weights are on the {device.type.upper()}"
    return None


def _shared_doubt() -> str | None:
    import triton

    if torch.version.hip:
        return "no shared-memory atomics on AMD yet"
    if triton.__version__ not in KNOWN_TRITON:
        return f"Triton {triton.__version__} is not among {', '.join(KNOWN_TRITON)}"
    return None


def _miscount(device: torch.device, shared: bool) -> str | None:
    """What the kernels get wrong about a million weights, or None."""
    from . import exact_rates, fine_histogram, moments, quantize

    generator = torch.Generator(device).manual_seed(0)
    weights = torch.randn(SIZE, device=device, generator=generator) * 0.02
    weights[4:8] = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    try:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            w = weights.to(dtype)[3:]  # not on an aligned address
            bases = torch.tensor([reference.DEFAULT_BASE], dtype=torch.int32)
            counts = fine_histogram.fine_histogram([w], bases, programs(device), shared)
            if not torch.equal(counts[0], reference.fine_histogram(w)):
                return f"wrong fine histogram of {dtype}"
            step = torch.tensor([0.003], device=device)
            dequantized, histogram = quantize.quantize(w, step, -1, True, programs(device), shared)
            expected, counted = reference.quantize_dequantize(w, 0.003)
            if not torch.equal(histogram.counts, counted.counts) or not torch.equal(dequantized, expected):
                return f"wrong symbols of {dtype}"
            found, plain = moments.moments([w], programs(device))[0], reference.moments(w)
            if found.count != plain.count or abs(found.std - plain.std) > 1e-9 * plain.std:
                return f"wrong moments of {dtype}"
            small = w[:SMALL]
            exact = torch.cat(reference.rates(small, step.cpu())).flatten()
            if shared and not torch.allclose(
                exact_rates.exact_rates([small], step[None]).flatten().cpu(), exact, rtol=1e-9
            ):
                return f"wrong rates of {dtype}"
    except Exception as error:  # whatever a compiler or a driver throws, the safe path is next
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return None
