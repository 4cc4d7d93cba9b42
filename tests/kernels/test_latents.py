"""Moves in Triton are those of the definition in PyTorch."""

import math

import pytest
import torch
from kolmogram.engine.coarse import latents as definition
from kolmogram.engine.coarse.latents import Latents
from kolmogram.engine.codec.representation import step_size

from tests.engine.coarse.test_latents import CODES, candidate

TALL = {"one column": candidate(7, m=700, n=1, scale=3.0), "long rows": candidate(8, m=600, n=3, scale=0.7), **CODES}


def state(latents):
    """Everything that a move may change, by name."""
    found = {name: getattr(latents, name) for name in ("_values", "_symbols", "_log_steps")}
    for name in ("_averages", "_step_averages", "_stretch_averages"):
        found |= {f"{name}.{part}": value for part, value in getattr(latents, name)._asdict().items()}
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_moves_are_those_of_the_definition(device, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.from_numpy(code.decoded.matrix)
        + (torch.rand(code.decoded.matrix.shape, generator=generator) - 0.5) * step_size(code.code.step)
        for name, code in TALL.items()
    }
    ours = Latents(TALL, weights, device)
    started = ours.copy()
    for number in range(4):
        theirs = ours.copy()
        gradient = torch.randn(len(ours._values), generator=generator).to(device) * 10.0 ** -(number + 1)
        gradient[3], gradient[5] = math.nan, -math.inf
        price, pace = (torch.tensor(x, dtype=torch.float64, device=device) for x in (300.0 / (number + 1), 0.8))
        ours._move_by_kernels(gradient, price, pace)
        theirs._move_by_operations(gradient, price, pace)
        for (name, mine), other in zip(state(ours).items(), state(theirs).values(), strict=True):
            if name == "_symbols":
                rounded = (mine != other) & ((theirs._values.abs() % 1 - 0.5).abs() > 1e-4)
                assert not rounded.any(), "only what lies between two integers may round the other way"
            else:  # float32 sums in another order
                torch.testing.assert_close(
                    mine, other, rtol=2e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
                )
    assert not torch.equal(ours._symbols, started._symbols)
    assert (ours._log_steps != started._log_steps).all()
    assert ours._values.abs().max() > 8 > definition.DAMPING


def test_large_numbers_round_to_the_nearest_integer(device):
    code = {"one": candidate(0, m=6, n=5)}
    latents = Latents(code, {"one": torch.zeros(6, 5)}, device)
    numbers = torch.tensor([0.5, 1.5, -2.5, 4194303.5, 4194304.5, -9e6, 3.0e7, -0.4999])
    latents._values[:8] = numbers.to(device)
    nothing = torch.zeros(30, device=device)
    latents._move_by_kernels(nothing, *torch.zeros(2, dtype=torch.float64, device=device))
    assert torch.equal(latents._values[:8].cpu(), numbers), "at no pace nothing moves"
    assert torch.equal(latents._symbols[:4].cpu(), numbers[:4].round())
    assert ((latents._symbols[:8].cpu() - numbers).abs() <= 0.5).all()
