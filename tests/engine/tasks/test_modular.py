import pytest
import torch
from kolmogram.engine.errors import TaskError
from kolmogram.engine.tasks.modular import OPERATIONS, ModularTask, split_examples

P = 13
PLAIN = {
    "addition": lambda a, b: (a + b) % P,
    "subtraction": lambda a, b: (a - b) % P,
    "multiplication": lambda a, b: (a * b) % P,
    "division": lambda a, b: (a * pow(b, -1, P)) % P,
    "x2_plus_y2": lambda a, b: (a**2 + b**2) % P,
    "x2_plus_xy_plus_y2": lambda a, b: (a**2 + a * b + b**2) % P,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_split_is_a_partition_of_all_correct_examples(operation):
    fraction = OPERATIONS[operation].train_fraction
    train, test = split_examples(operation, P, fraction, seed=3)
    rows = torch.cat([torch.column_stack([part.pairs, part.labels]) for part in (train, test)]).tolist()
    divisors = range(1, P) if operation == "division" else range(P)
    assert sorted(rows) == [[a, b, PLAIN[operation](a, b)] for a in range(P) for b in divisors]
    assert len(train) == int(fraction * len(rows))


def test_the_seed_decides_the_split():
    first, again, other = (split_examples("addition", P, 0.5, seed)[0].pairs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture(scope="module")
def task():
    return ModularTask("addition", modulus=P, seed=1)


@pytest.fixture(scope="module")
def params(task):
    return task.network.initial(torch.Generator().manual_seed(0))


def test_losses_agree_with_each_other(task, params):
    each = task.per_example_loss(params)
    assert each.shape == (task.num_examples,)
    torch.testing.assert_close(each.mean(), task.loss(params))
    assert task.loss(params) != task.test_loss(params)


def test_sampled_labels_come_from_the_prediction(task, params):
    params = {name: 3 * p for name, p in params.items()}  # predictions far from uniform
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([task.sampled_loss(params, generator) for _ in range(2000)])
    p = task.network.logits(params, task.train.pairs).softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    error = draws.std().item() / draws.numel() ** 0.5
    assert error < 0.02 * entropy
    assert draws.mean().item() == pytest.approx(entropy.item(), abs=4 * error)
    assert abs(task.loss(params) - entropy) > 0.2 * entropy  # the data's own labels would have failed


def test_accuracies_are_exact_when_the_network_knows_the_answer(task, params):
    assert task.error_rate(params) == pytest.approx(1 - task.accuracies(params)["train_accuracy"])
    train, test = task.train, task.test
    table = torch.zeros(P, P, dtype=torch.int64)
    for part in (train, test):
        table[part.pairs[:, 0], part.pairs[:, 1]] = part.labels
    table[test.pairs[0, 0], test.pairs[0, 1]] += 1  # one wrong test answer
    oracle = ModularTask("addition", modulus=P, seed=1)
    object.__setattr__(oracle.network, "logits", lambda _, pairs: torch.eye(P + 2)[table[pairs[:, 0], pairs[:, 1]]])
    assert oracle.accuracies(params) == {"train_accuracy": 1.0, "test_accuracy": 1 - 1 / len(test)}
    assert oracle.error_rate(params) == 0


def test_weights_that_do_not_fit_are_named(task, params):
    renamed = {("embed" if name == "embedding.weight" else name): p for name, p in params.items()}
    with pytest.raises(TaskError, match=r"missing embedding.weight; unknown embed$"):
        task.loss(renamed)
    with pytest.raises(TaskError, match=r"output.bias is \(3,\), expected \(15,\)"):
        task.loss(params | {"output.bias": torch.zeros(3)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operation": "addition "}, "unknown operation 'addition '"),
        ({"operation": "addition", "modulus": 91}, "91 is not a prime"),
        ({"operation": "addition", "architecture": "rnn"}, "unknown architecture"),
        ({"operation": "addition", "train_fraction": 0.0}, "0 training"),
        ({"operation": "addition", "width": 30}, "width 30 is not a multiple"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(TaskError, match=message):
        ModularTask(**settings)


def test_the_training_pairs_are_a_part_of_a_known_population(task):
    assert task.num_examples + len(task.test) == task.population == P * P
    assert task.num_classes == P


def test_a_config_that_lacks_something_says_what():
    config = {"operation": "addition", "layers": 1, "train_fraction": 0.2, "seed": 0}
    with pytest.raises(TaskError, match=r"runs/x: config.json .* lacks modulus, architecture"):
        ModularTask.from_config(config, "runs/x")
    with pytest.raises(TaskError, match=r"runs/x: config.json does not describe a modular run: "):
        ModularTask.from_config(config | {"modulus": "x", "architecture": "mlp"}, "runs/x")


@pytest.mark.parametrize(
    "odd",
    [
        *({"modulus": n} for n in (99991, 10**400 + 1, 10**18 + 9, -7, 113.0, True, None, [113])),
        *({"layers": n} for n in (10**9, 0, -1, 1.0, True, {})),
        *({"width": n} for n in (10**12, 0, "128", 128.0)),
        *({"seed": n} for n in (2**64, 1e3, "0")),
        *({"train_fraction": f} for f in (1e300, float("nan"), "0.5", [0.5], True)),
        {"operation": ["addition"]},
        {"architecture": "rnn" * 1000},
    ],
    ids=lambda odd: str(odd)[:30],
)
def test_a_config_that_asks_for_something_odd_is_refused_at_once(odd):
    config = {"operation": "addition", "modulus": 113, "architecture": "transformer", "layers": 1}
    with pytest.raises(TaskError, match=r"runs/x: config.json does not describe a modular run: ") as error:
        ModularTask.from_config(config | {"train_fraction": 0.2, "seed": 0} | odd, "runs/x")
    assert len(str(error.value)) < 200


def test_predictions_are_a_table_in_the_order_of_the_operands():
    task = ModularTask("division", modulus=11)
    params = task.network.initial(torch.Generator().manual_seed(0))
    table = task.predictions(params).view(11, 10)  # nothing is divided by zero
    for (a, b), answer in zip(task.test.pairs, task.network.logits(params, task.test.pairs).argmax(-1), strict=True):
        assert table[a, b - 1] == answer
