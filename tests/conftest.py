"""Without a GPU, Triton kernels run in Triton's interpreter: it must know before anything imports it."""

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does: tests run beside each other


@pytest.fixture
def pretended(monkeypatch):
    """A machine that torch takes for a GPU (`pretend.py`); its kernels are the definitions, in PyTorch."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a real one")
    from .pretend import pretend

    monkeypatch.setenv("KOLMOGRAM_BACKEND", "reference")
    return pretend(monkeypatch)
