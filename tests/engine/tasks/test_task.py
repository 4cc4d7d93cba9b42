import pytest
import torch
from kolmogram import Task
from kolmogram.engine.errors import TaskError
from kolmogram.engine.provenance import task_identity
from kolmogram.engine.tasks import as_task
from kolmogram.engine.tasks.labels import drawn_labels
from kolmogram.engine.tasks.task import as_parameter
from torch import nn


class Tied(nn.Module):
    """Tied weights, dropout, a buffer: what real models have."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.norm(self.dropout(self.embed(x))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def batches():
    return [(torch.arange(7), torch.arange(7).flip(0)), (torch.tensor([1, 2]), torch.tensor([3, 3]))]


def once(model):
    """The state dict as a checkpoint gives it: tied storage once."""
    return {name: t for name, t in model.state_dict().items() if name != "head.weight"}


def test_the_loss_is_the_mean_over_all_examples(model, batches):
    task = Task.from_module(model, batches, nn.functional.cross_entropy)
    model.eval()
    inputs, targets = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    expected = nn.functional.cross_entropy(model(inputs), targets)
    torch.testing.assert_close(task.loss(once(model)), expected)
    assert task.num_examples == 9


def test_weights_come_from_outside_and_gradients_go_there(model, batches):
    task = Task.from_module(model, batches, nn.functional.cross_entropy)
    params = {name: t * 2 if t.is_floating_point() else t for name, t in once(model).items()}
    params["embed.weight"].requires_grad_()
    loss = task.loss(params)
    assert loss != task.loss(once(model))
    (gradient,) = torch.autograd.grad(loss, params["embed.weight"])
    assert gradient.abs().sum() > 0
    assert model.training
    assert model.embed.weight.grad is None


def test_inputs_may_be_tuples_or_dicts(model, batches):
    plain = Task.from_module(model, batches, nn.functional.cross_entropy).loss(once(model))
    for wrap in (lambda x: (x,), lambda x: {"x": x}):
        wrapped = [(wrap(x), y) for x, y in batches]
        assert Task.from_module(model, wrapped, nn.functional.cross_entropy).loss(once(model)) == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p | {"extra": torch.zeros(1)}, "unknown extra"),
        (lambda p: {k: v for k, v in p.items() if k != "norm.bias"}, "missing norm.bias"),
        (lambda p: p | {"norm.bias": torch.zeros(4)}, r"norm.bias is \(4,\), expected \(5,\)"),
        (lambda p: p | {"norm.running_var": torch.zeros(4)}, r"norm.running_var is \(4,\)"),
        (lambda p: {k: v for k, v in p.items() if k != "embed.weight"}, "missing embed.weight, head.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(model, batches, change, message):
    task = Task.from_module(model, batches, nn.functional.cross_entropy)
    with pytest.raises(TaskError, match=message):
        task.loss(change(once(model)))


def test_buffers_may_be_absent(model, batches):
    task = Task.from_module(model, batches, nn.functional.cross_entropy)
    parameters = {name: t for name, t in once(model).items() if "running" not in name and "num_" not in name}
    assert task.loss(parameters) == task.loss(once(model))


def test_no_batches_is_an_error(model):
    with pytest.raises(TaskError, match="no batches"):
        Task.from_module(model, [], nn.functional.cross_entropy)


def test_a_classifier_also_has_per_example_and_sampled_losses(model, batches):
    task = Task.from_module(model, batches, nn.functional.cross_entropy)
    params = {name: t * 3 if t.is_floating_point() and t.ndim > 1 else t for name, t in once(model).items()}
    each = task.per_example_loss(params)
    assert each.shape == (9,)
    torch.testing.assert_close(each.mean(), task.loss(params))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([task.sampled_loss(params, generator) for _ in range(2000)])
    model.eval().load_state_dict({**params, "head.weight": params["embed.weight"]})
    logits = model(torch.cat([x for x, _ in batches]))
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(draws.mean(0), entropy, rtol=0, atol=0.1)
    targets = torch.cat([y for _, y in batches])
    assert task.error_rate(params) == (logits.argmax(-1) != targets).double().mean().item()


def test_other_losses_promise_no_labels(model, batches):
    task = Task.from_module(model, batches, lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))
    assert not hasattr(task, "sampled_loss")


@pytest.mark.parametrize("loss_fn", [nn.functional.cross_entropy, nn.CrossEntropyLoss()])
def test_labels_that_cross_entropy_ignores_count_nowhere(model, batches, loss_fn):
    (x, y), (more_x, more_y) = batches
    ignored = torch.full_like(y, -100)
    with_ignored = [(x, torch.where(x % 3 == 0, ignored, y)), (more_x, more_y), (x, ignored)]
    task = Task.from_module(model, with_ignored, loss_fn)
    counted = x[x % 3 > 0]
    same = Task.from_module(model, [(counted, y[counted]), (more_x, more_y)], loss_fn)
    params = once(model)
    assert task.num_examples == same.num_examples == 6
    assert task.error_rate(params) == same.error_rate(params)
    torch.testing.assert_close(task.loss(params), same.loss(params))
    torch.testing.assert_close(task.per_example_loss(params), same.per_example_loss(params))
    torch.testing.assert_close(task.per_example_loss(params).mean(), task.loss(params))
    draws = [one.sampled_loss(params, torch.Generator().manual_seed(0)) for one in (task, same)]
    torch.testing.assert_close(*draws)
    part = task.subset(torch.tensor([5]))
    assert part.num_examples == 2
    torch.testing.assert_close(part.loss(params), task.per_example_loss(params)[4:].mean())


def test_a_label_of_one_byte_is_never_ignored():
    labels = torch.tensor([156, 3], dtype=torch.uint8)  # 156 is -100 in one byte
    assert Task.from_module(nn.Linear(2, 200), [(torch.ones(2, 2), labels)], nn.CrossEntropyLoss()).num_examples == 2


def test_nothing_but_ignored_labels_is_an_error(model):
    with pytest.raises(TaskError, match="no batches with targets"):
        Task.from_module(model, [(torch.arange(2), torch.tensor([-100, -100]))], nn.functional.cross_entropy)


@pytest.mark.parametrize(
    ("loss_fn", "classifies"),
    [
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
        (nn.CrossEntropyLoss(weight=torch.ones(7)), False),
        (nn.CrossEntropyLoss(ignore_index=0), False),
        (nn.CrossEntropyLoss(reduction="sum"), False),
        (nn.MSELoss(), False),
    ],
)
def test_cross_entropy_may_be_a_module_if_it_is_the_function(model, batches, loss_fn, classifies):
    task = Task.from_module(model, batches, loss_fn)
    assert hasattr(task, "sampled_loss") == classifies
    assert task.num_classes == (7 if classifies else None)


def test_counting_classes_leaves_the_module_as_it_is():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 5, dtype=torch.bfloat16)
            self.register_buffer("calls", torch.tensor(0))
            self.told = []

        def forward(self, x):
            self.calls += 1
            self.told.append(self.training)
            return self.linear(x)

    model = Counting()
    task = Task.from_module(model, [(torch.ones(3, 2), torch.tensor([0, 1, 4]))] * 2, nn.functional.cross_entropy)
    assert not task._model.told, "nobody has asked"
    assert (task.num_classes, task.num_classes) == (5, 5)
    assert task._model.told == [False], "once, on one batch, in float32, as weights come"
    assert task._model.calls == model.calls == 0
    assert model.training


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda outputs, targets: outputs.sum().item(), "must return a scalar tensor, it returned float$"),
        (lambda outputs, targets: outputs.sum(-1), r"must return a scalar tensor, it returned \(7,\): take the mean"),
    ],
)
def test_a_loss_that_is_no_scalar_tensor_is_told_so(model, batches, loss_fn, message):
    with pytest.raises(TaskError, match=message):
        Task.from_module(model, batches, loss_fn).loss(once(model))


@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.LSTM(3, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_of_another_type_than_weights_are_named(module, dtype):
    task = Task.from_module(module, [((torch.ones(1, 3, 3, dtype=dtype),), torch.ones(1))], lambda out, _: out.mean())
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(TaskError, match=f"inputs are {kind}, weights come as float32: give the task such inputs"):
        task.loss(dict(module.state_dict()))


def test_what_else_a_module_cannot_do_is_left_as_it_says(model):
    task = Task.from_module(nn.Linear(3, 2), [(torch.ones(1, 4), torch.ones(1))], lambda out, _: out.mean())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        task.loss({"weight": torch.ones(2, 3), "bias": torch.ones(2)})


def test_what_has_a_loss_or_is_one_is_a_task():
    class Mine:
        num_classes = 3

        def loss(self, params):
            return params["w"].sum()

    params = {"w": torch.ones(2)}
    for given in (Mine(), Mine().loss, lambda params: params["w"].sum(), lambda p, scale=1: p["w"].sum()):
        task = as_task(given)
        assert task.loss(params) == 2
        assert task.num_examples is None
    assert as_task(Mine()).num_classes == 3
    assert as_task(task) is task
    assert task_identity(as_task(Mine()), None) == task_identity(Mine(), None)
    assert task_identity(as_task(torch.sin), None) != task_identity(as_task(torch.cos), None)


@pytest.mark.parametrize("given", ["my_task.py", 3, None, lambda: None, lambda params, more: None, dict])
def test_nothing_else_is_a_task(given):
    with pytest.raises(
        TaskError, match=r"a task is an object with loss\(params\), not (str|int|NoneType|function|type);"
    ):
        as_task(given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_drawn_on_a_gpu_come_as_often_as_the_network_says():
    shares = torch.tensor([0.5, 0.0, 0.2, 0.3], device="cuda")
    drawn = drawn_labels(shares.log().expand(20_000, 4), torch.Generator().manual_seed(0))
    assert drawn.device.type == "cuda"
    # A share of 20,000 is known to 0.0035, one standard deviation.
    torch.testing.assert_close(drawn.bincount(minlength=4) / 20_000, shares, rtol=0, atol=0.015)
    again = drawn_labels(shares.log().expand(20_000, 4), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again), "the generator decides"


def test_labels_of_many_classes_are_drawn_in_float32():
    """In bfloat16 hundreds of neighbouring sums would be one, and most classes never drawn."""
    drawn = drawn_labels(torch.zeros(8_000, 2_000, dtype=torch.bfloat16), torch.Generator().manual_seed(0))
    # A quarter of 8,000 is known to 0.005, one standard deviation.
    torch.testing.assert_close((drawn // 500).bincount() / 8_000, torch.full((4,), 0.25), rtol=0, atol=0.02)
    assert len(drawn.unique()) > 1_900, "of 2,000 about 37 are missed by chance"


def test_a_module_on_a_pretended_gpu_is_the_same_task(pretended):
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(9, 6), torch.nn.Flatten(), torch.nn.Linear(12, 3)).to(device)
        inputs, labels = torch.arange(18).view(9, 2) % 9, torch.arange(9) % 3
        labels[4] = -100
        batches = [(inputs.to(device), labels.to(device)), (inputs.flip(0).to(device), labels.flip(0).to(device))]
        task = Task.from_module(model, batches, torch.nn.functional.cross_entropy)
        params = {name: as_parameter(p.detach().cpu(), task) for name, p in model.named_parameters()}
        part = task.subset(torch.tensor([9, 10], device=device))
        sampled = task.sampled_loss(params, torch.Generator().manual_seed(0))
        values = task.loss(params), part.loss(params), task.per_example_loss(params).sum(), sampled.sum()
        found.append([*map(float, values), task.error_rate(params), task.num_classes, task.config])
    assert found[0] == found[1]
