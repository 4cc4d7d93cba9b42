"""Where Triton kernels run (a GPU, or else its interpreter), and weights that every kernel must count right."""

from collections.abc import Callable

import pytest
import torch
from kolmogram.kernels import selftest
from torch import Tensor


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not selftest.interpreted():
        return torch.device("cuda")
    from kolmogram.kernels import interpreter

    interpreter.install()
    return torch.device("cpu")


@pytest.fixture
def cases() -> Callable[[torch.dtype], dict[str, Tensor]]:
    return _cases


def _with_specials(w: Tensor) -> Tensor:
    specials = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, torch.nan, 6.1e4, -6.1e4])
    w[: specials.numel()] = specials
    return w


def _cases(dtype: torch.dtype) -> dict[str, Tensor]:
    """Name → one-dimensional weights."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(20_011, generator=generator) * 0.02
    tiny = torch.finfo(dtype).smallest_normal
    made = {
        "normal": normal,
        "heavy-tailed": normal / (torch.rand(20_011, generator=generator) + 1e-4),
        "constant": torch.full((9_000,), 0.0625),
        "80 % zeros": torch.where(torch.rand(20_011, generator=generator) < 0.8, torch.tensor(0.0), normal),
        "signed zeros": torch.tensor([0.0, -0.0]).repeat(700),
        "specials": _with_specials(normal[:5_003].clone()),
        "denormals": (torch.rand(4_099, generator=generator) - 0.5) * tiny,
        "one": torch.tensor([-0.37]),
        "one block": normal[:8_192],
        "one more than a block": normal[:8_193],
    }
    weights = {name: w.to(dtype) for name, w in made.items()}
    weights["unaligned"] = normal.to(dtype)[3:]
    weights["one unaligned"] = normal.to(dtype)[1:2]
    weights["empty"] = normal[:0].to(dtype)
    return weights
