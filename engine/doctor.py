"""`kolmogram doctor`: what is here, which backend runs and why, what is missing and how to get it."""

import os
import platform
from collections.abc import Iterator
from typing import NamedTuple

from .. import __version__
from .provenance import package_versions

OPTIONAL = {
    "bayesian-optimization": ("paper", "--method paper"),
    "transformers": ("hf", "the causal-lm task and the Trainer callback"),
    "lightning": ("lightning", "the Lightning callback"),
    "universal-pathlib": ("hub", "runs behind URLs"),
    "huggingface-hub": ("hub", "runs on the Hugging Face Hub"),
}
"""Package → the extra that brings it, and what it is for."""


class Finding(NamedTuple):
    """One line of the diagnosis."""

    what: str
    state: str
    ok: bool = True


def diagnose() -> Iterator[Finding]:
    """Findings, the most basic first. One that is not ok says what to do."""
    yield Finding("kolmogram", __version__)
    yield Finding(
        "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    yield from _packages()
    from .devices import usable

    device = usable("auto")
    yield from _backend(device)
    yield _kernels_agree(device)
    yield from _optional()


def _packages() -> Iterator[Finding]:
    for name, version in package_versions().items():
        if version:
            yield Finding(name, version)
        else:
            needed = name != "triton" or platform.system() == "Linux"
            yield Finding(name, f"missing: pip install {name}" if needed else "not made for this system", not needed)


def _backend(device: str) -> Iterator[Finding]:
    import torch

    from ..kernels.dispatch import choose_backend
    from .errors import BackendError

    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        yield Finding("GPU", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} in all")
    else:
        build = torch.version.cuda
        reason = f"none visible to torch (built for CUDA {build})" if build else "this torch is built for the CPU alone"
        yield Finding("GPU", f"{reason}; the CPU kernels do everything")
    try:
        backend = choose_backend(device)
    except BackendError as error:
        yield Finding("backend", str(error), ok=False)
    else:
        yield Finding("backend", f"{backend.name}: {backend.reason}")


def _kernels_agree(device: str) -> Finding:
    """A few thousand weights through the backend of the device and through the definition."""
    import torch

    from ..kernels.dispatch import quantized_entropy
    from .errors import BackendError

    weights = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0.5, 0.05])
    try:
        chosen = quantized_entropy(weights.to(device), steps).entropy_bits
    except BackendError:
        return Finding("kernels", "not tried, as there is no backend", ok=False)
    defined = quantized_entropy(weights, steps, backend="reference").entropy_bits
    agree = torch.allclose(chosen, defined, rtol=0, atol=1e-3)
    return Finding(
        "kernels", "agree with their definition" if agree else "DISAGREE with their definition: report this", agree
    )


def _optional() -> Iterator[Finding]:
    for package, version in package_versions(tuple(OPTIONAL)).items():
        extra, purpose = OPTIONAL[package]
        yield Finding(package, version or f"not installed; for {purpose}: pip install 'kolmogram[{extra}]'")
