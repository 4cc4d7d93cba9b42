import math

import pytest
import torch
from kolmogram.engine.coarse import complexity
from kolmogram.engine.coarse.exactness import is_coarse
from kolmogram.engine.tasks import Task
from torch import nn
from torch.nn import functional as F  # noqa: N812


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weights_of_any_float_type_are_coarse(dtype):
    assert is_coarse("layer.weight", torch.ones(2, 2).to(dtype))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bn.running_mean", torch.ones(3)),
        ("running_var", torch.ones(3)),
        ("bn.num_batches_tracked", torch.tensor(4)),
        ("steps", torch.tensor([1, 2])),
        ("spectrum", torch.ones(2, dtype=torch.complex64)),
        ("scales", torch.ones(2).to(torch.float8_e8m0fnu)),
        ("limit", torch.tensor([0.0, -math.inf])),
        ("far", torch.tensor([1e300], dtype=torch.float64)),
        ("empty", torch.zeros(0, 3)),
    ],
)
def test_what_is_no_weight_or_fits_no_grid_is_exact(name, value):
    assert not is_coarse(name, value)


def test_a_task_made_from_a_module_knows_its_buffers():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("shift", torch.linspace(0.1, 0.7, 6))

        def forward(self, x):
            return self.linear(x + self.shift)

    torch.manual_seed(0)
    model = Shifted()
    inputs = torch.randn(64, 6)
    task = Task.from_module(model, [(inputs, model(inputs).argmax(-1))], F.cross_entropy)
    assert task.buffers == {"shift"}
    params = {name: value.detach() for name, value in model.state_dict().items()}
    found = complexity(params, task, 0.1)
    assert torch.equal(found.decode()["shift"], params["shift"])
    assert found.per_tensor["shift"].transform == "exact"
    assert not torch.equal(found.decode()["linear.weight"], params["linear.weight"])
