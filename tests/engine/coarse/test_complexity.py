"""C_ε is the length of a file that decodes to a network within ε, and depends on nothing that it should not."""

import math
import threading
from collections import Counter
from copy import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse import complexity, complexity_curve
from kolmogram.engine.coarse.complexity import _result
from kolmogram.engine.coarse.descent import Descent
from kolmogram.engine.coarse.search import MOVES, Search
from kolmogram.engine.coarse.tensor_coder import TensorCoder
from kolmogram.engine.codec.container import decode
from kolmogram.engine.errors import CodecError, KolmogramError
from kolmogram.engine.tasks import Task


@pytest.fixture(scope="module")
def result(task, params):
    return complexity(params, task, 0.25)


def test_the_file_is_as_long_as_it_says_and_decodes_within_epsilon(task, params, result, tmp_path):
    assert result.status == "ok"
    result.save(tmp_path / "network.kolmo")
    data = Path(tmp_path / "network.kolmo").read_bytes()
    assert len(data) == result.bytes
    decoded = decode(data)
    assert decoded.keys() == params.keys()
    loss = float(task.loss(decoded))
    assert loss == pytest.approx(result.loss, abs=1e-6)
    assert loss <= float(task.loss(params)) + 0.25
    assert any(not torch.equal(decoded[name], params[name]) for name in params), "something was coarse-grained"


def test_it_is_much_smaller_than_the_weights(params, result):
    assert result.bytes < 4 * sum(value.numel() for value in params.values()) / 8


def test_bytes_of_tensors_make_up_the_file(params, result):
    assert result.per_tensor.keys() == params.keys()
    total = sum(cost.bytes for cost in result.per_tensor.values())
    assert total <= result.bytes <= total + 120


def test_a_network_that_knows_nothing_is_nothing(task, params):
    untrained = {name: value * 0.01 for name, value in params.items()}
    found = complexity(untrained, task, 1.0)
    assert found.evaluations <= 3
    assert not any(value.any() for value in found.decode().values())
    assert found.bytes < 100


def test_the_same_seed_gives_the_same_file(task, params, result):
    assert complexity(params, task, 0.25).encoded == result.encoded


def test_several_epsilons_come_in_order_and_fall(task, params):
    curve = complexity_curve(params, task, (1.0, 0.05, 0.25))
    assert [r.epsilon for r in curve.results] == [1.0, 0.05, 0.25]
    large, small, middle = curve.results
    assert large.bytes <= middle.bytes <= small.bytes
    assert large.bytes < small.bytes
    for r in curve.results:
        assert r.loss <= curve.original_loss + r.epsilon


def test_any_object_with_a_loss_is_a_task_with_all_that_it_has(task, params, result):
    class Plain:
        """Not a Task, though callable."""

        num_examples = task.num_examples
        sampled_loss = staticmethod(task.sampled_loss)
        per_example_loss = staticmethod(task.per_example_loss)
        loss = staticmethod(task.loss)

        def __call__(self, params):
            raise AssertionError("it has a loss")

    assert complexity(params, Plain(), 0.25).encoded == result.encoded
    assert complexity(params, task.loss, 0.25, moves=2).status == "ok"


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_an_epsilon_is_a_positive_number(task, params, epsilon):
    with pytest.raises(KolmogramError, match="a positive number"):
        complexity(params, task, epsilon)


def test_a_size_does_not_depend_on_what_else_is_asked_for(task, params, result):
    several = complexity_curve(params, task, (1.0, 0.25, 0.1, 0.01)).results
    assert several[1].encoded == result.encoded
    for r in (several[0], several[2], several[3]):
        assert complexity(params, task, r.epsilon).encoded == r.encoded
    assert complexity(params, task, (0.01, 1.0))[0].encoded == several[3].encoded


def test_with_every_doubling_above_home_sizes_fall(task, params):
    for seed in range(3):
        sizes = [r.bytes for r in complexity(params, task, (0.25, 0.5, 1.0), seed=seed)]
        assert sizes == sorted(sizes, reverse=True)


def test_of_two_files_that_seem_alike_the_smaller_one_is_taken(task, params, monkeypatch):
    written = []
    write = Search._write_state
    monkeypatch.setattr(Search, "_write_state", lambda *a: written.append(write(*a)) or written[-1])
    found = complexity(params, task, 1.0)
    assert len(written) > 1
    assert found.bytes == min(len(point.encoded.data) for point in written)


def test_each_further_epsilon_costs_half_of_the_moves(task, params, monkeypatch):
    asked = []
    run = Descent.run
    monkeypatch.setattr(Descent, "run", lambda *a: (asked.append(a[1:3]), run(*a))[1])
    curve = complexity_curve(params, task, (0.05, 0.2, 1.0))
    first = dict(reversed(asked))  # not those that come back more strictly
    # The empty network loses two nats: its home is a quarter, a sixteenth on the way to 0.05, a half on the way to 1.
    assert first == {0.25: MOVES} | dict.fromkeys((0.2, 0.0625, 0.05, 0.5, 1.0), MOVES // 2)
    one = complexity(params, task, 0.05)
    assert curve.results[0].evaluations < 2.5 * one.evaluations


def test_where_descent_finds_nothing_the_start_for_that_epsilon_is_taken(task, params, monkeypatch):
    monkeypatch.setattr(Descent, "run", lambda *_: None)
    curve = complexity_curve(params, task, (0.02, 0.25))
    for found in curve.results:
        assert found.status == "ok"
        assert found.per_tensor["up.weight"].transform != "exact"
    assert curve.results[0].bytes > curve.results[1].bytes


def test_a_file_whose_loss_is_too_high_is_not_given_out(task, params):
    search = Search(task, params)
    (point,) = search.run([1e6])  # everything zero
    found = _result(search, point, 0.1, 0.0)
    assert "exceeds" in found.status
    assert found.encoded is None
    assert math.isnan(found.bytes)
    assert not found.per_tensor


def test_the_start_is_coded_on_all_threads(task, params, result, monkeypatch):
    coded = Counter()
    best = TensorCoder.best

    def counted(coder, *args):
        coded[threading.current_thread().name.startswith("kolmogram")] += 1
        return best(coder, *args)

    monkeypatch.setattr(TensorCoder, "best", counted)
    assert complexity(params, task, 0.25).encoded == result.encoded
    assert coded[True] > 0 == coded[False]


def test_dead_weights_cost_nothing(task, params, result):
    class Indifferent(Task):
        def loss(self, p):
            return task.loss({name: value for name, value in p.items() if name != "unused.weight"})

    padded = {**params, "unused.weight": torch.randn(256, 256)}
    dead = complexity(padded, Indifferent(), 0.25).per_tensor["unused.weight"]
    assert dead.transform == "zero"
    assert dead.bytes < 1


def with_more_features(task, size):
    """Six more features: `size` times a random number in the loss, zero in what the curvature is drawn from."""
    seen, loss = copy(task), copy(task)
    seen.inputs = F.pad(task.inputs, (0, 6))
    more = size * torch.randn(len(task.inputs), 6, generator=torch.Generator().manual_seed(2))
    loss.inputs, loss.sampled_loss = torch.cat([task.inputs, more], 1), seen.sampled_loss
    return loss


@pytest.fixture(scope="module")
def padded(params):
    more = torch.randn(48, 6, generator=torch.Generator().manual_seed(3))
    return {**params, "up.weight": torch.cat([params["up.weight"], more], 1)}


def test_features_that_no_example_has_cost_nothing(task, padded, result):
    found = [complexity(padded, with_more_features(task, 0.0), 0.25, seed=seed) for seed in range(8)]
    assert not any(each.decode()["up.weight"][:, 12:].any() for each in found)
    assert sum(each.bytes for each in found) < 8 * 1.2 * result.bytes, "288 more weights beside 2,000"


def test_features_that_only_seem_unused_are_kept(task, params):
    blind, misled = copy(task), copy(task)
    blind.inputs = torch.cat([torch.zeros(256, 6), task.inputs[:, 6:]], 1)
    misled.sampled_loss = blind.sampled_loss  # so that the curvature is of a network that does not see them
    without = {**params, "up.weight": torch.cat([torch.zeros(48, 6), params["up.weight"][:, 6:]], 1)}
    assert float(task.loss(without)) > float(task.loss(params)) + 0.5
    found = complexity(params, misled, 0.05)
    assert found.decode()["up.weight"][:, :6].any()
    assert float(task.loss(found.decode())) <= float(task.loss(params)) + 0.05


def test_fewer_moves_are_a_faster_first_look(task, params, result):
    quick = complexity(params, task, 0.25, moves=20)
    assert len(quick.frontier) < len(result.frontier)
    assert quick.evaluations < result.evaluations / 1.5
    assert quick.bytes > result.bytes
    assert quick.loss <= quick.original_loss + 0.25
    for method in ("kolmogram", "paper"):
        with pytest.raises(KolmogramError, match="at least 1"):
            complexity(params, task, 0.25, method=method, moves=0)


def test_a_black_box_is_enough(task, params, result):
    """A plain function, whose tensors meet their inputs where nobody sees it."""

    def loss(p):
        return task.loss({name: value * 1.0 for name, value in p.items()})

    blind = [complexity(params, loss, 0.25, seed=seed) for seed in range(3)]
    seen = [result, *(complexity(params, task, 0.25, seed=seed) for seed in (1, 2))]
    assert all(found.status == "ok" for found in blind)
    assert sum(found.bytes for found in blind) < 2 * sum(found.bytes for found in seen)


def test_order_of_tensors_does_not_matter(task, params, result):
    assert complexity(dict(reversed(params.items())), task, 0.25).bytes == result.bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_come_back_as_they_were(task, params, dtype):
    def loss(p):
        return task.loss({name: value.float() for name, value in p.items()})

    found = complexity({name: value.to(dtype) for name, value in params.items()}, loss, 0.25)
    assert found.status == "ok"
    assert {value.dtype for value in found.decode().values()} == {dtype}


def test_integers_flags_and_infinities_are_kept_to_the_byte(task, params):
    extra = {
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "limit": torch.tensor([1.5, -math.inf]),
        "nothing": torch.zeros(0, 3),
    }

    class Part(Task):
        def loss(self, p):
            assert p["steps"] == 7
            return task.loss({name: value for name, value in p.items() if name in params})

    decoded = complexity({**params, **extra}, Part(), 0.5).decode()
    for name, value in extra.items():
        assert torch.equal(decoded[name], value)
        assert decoded[name].dtype == value.dtype


def test_where_nothing_coarser_is_feasible_the_bytes_are_kept(params):
    """A loss that minds every bit of its one tensor."""
    exact = params["up.weight"].clone()
    found = complexity({"w": exact}, lambda p: (p["w"] != exact).float().mean() * 100 + 0 * p["w"].sum(), 1e-6)
    assert found.status == "ok"
    assert torch.equal(found.decode()["w"], exact)


@pytest.mark.parametrize("elsewhere", [1e20, math.inf, math.nan])
def test_a_loss_that_only_these_weights_keep_from_infinity_is_a_file_too(params, elsewhere):
    exact = params["up.weight"]

    def loss(p):
        return 0 * p["w"].sum() + (0.5 if torch.equal(p["w"], exact) else elsewhere)

    found = complexity({"w": exact}, loss, 1.0, moves=2)
    assert found.status == "ok"
    assert torch.equal(found.decode()["w"], exact)


def test_nonsense_is_refused_in_one_line(task, params):
    with pytest.raises(KolmogramError, match="positive"):
        complexity(params, task, 0.0)
    with pytest.raises(KolmogramError, match="unknown method"):
        complexity_curve(params, task, [1.0], method="guess")
    with pytest.raises(KolmogramError, match="not a finite number"):
        complexity({**params, "up.bias": torch.full((48,), math.nan)}, task)


def test_the_authors_method_is_reproducible_and_larger(params):
    """On a loss that costs nothing to look at, since its search asks for a model of it at every trial."""
    exact = params["up.weight"]

    def loss(p):
        return ((p["up.weight"] - exact) ** 2).mean()

    first, second = (complexity({"up.weight": exact}, loss, 1e-3, method="paper") for _ in range(2))
    assert first.bytes == second.bytes
    assert first.evaluations >= 62
    assert first.loss <= 1e-3
    assert complexity({"up.weight": exact}, loss, 1e-3).bytes < 0.8 * first.bytes
    with pytest.raises(CodecError):
        first.decode()
