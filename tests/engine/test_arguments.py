"""Nonsense is refused in one line by whoever is asked, before anything is done."""

import kolmogram
import numpy as np
import pytest
import torch
from kolmogram import KolmogramError
from kolmogram.engine.arguments import METHODS, at_least_one, checked_epsilons, checked_method, several
from safetensors.torch import save_file


def test_numbers_of_things_are_whole_and_not_none():
    assert at_least_one("moves", np.int64(3)) == 3
    assert type(at_least_one("moves", np.int64(3))) is int, "as JSON knows it"
    for wrong in (0, -1, 2.5, "3", None):
        with pytest.raises(KolmogramError, match="moves must be a whole number, at least 1, not"):
            at_least_one("moves", wrong)


def test_a_method_is_one_of_two():
    assert [checked_method(method) for method in METHODS] == ["kolmogram", "paper"]
    for wrong in ("guess", None, []):
        with pytest.raises(KolmogramError, match="unknown method"):
            checked_method(wrong)


@pytest.mark.parametrize("kind", [tuple, list, iter, np.array, torch.tensor, lambda e: (one for one in e)])
def test_epsilons_may_come_in_anything(kind):
    assert several(kind([1.0, 0.5]))
    assert checked_epsilons(kind([1.0, 0.5])) == (1.0, 0.5)


@pytest.mark.parametrize("one", [1, 1.0, np.float64(1), np.array(1.0), torch.tensor(1.0)])
def test_one_epsilon_is_one(one):
    assert not several(one)
    assert checked_epsilons(one) == (1.0,)


@pytest.mark.parametrize("wrong", [0, -1.0, np.inf, np.nan, "one", None, [1.0, 0.0], [[1.0]]])
def test_an_epsilon_is_positive(wrong):
    with pytest.raises(KolmogramError, match="a positive number of nats, not"):
        checked_epsilons(wrong)


@pytest.mark.parametrize("kind", [np.array, iter])
def test_complexity_takes_what_analyze_takes(kind):
    params = {"w": torch.full((3, 4), 1e-3)}
    found = kolmogram.complexity(params, Loss(), kind([1.0, 0.5]))
    assert [each.epsilon for each in found] == [1.0, 0.5]
    assert kolmogram.complexity(params, Loss(), np.array(1.0)).epsilon == 1.0


class Loss:
    def loss(self, params):
        return params["w"].square().mean()


@pytest.mark.parametrize("task", [None, Loss()])
@pytest.mark.parametrize("wrong", [{"method": "guess"}, {"moves": 0}, {"workers": 0}])
def test_analyze_refuses_before_it_begins(tmp_path, task, wrong):
    save_file({"w": torch.ones(3)}, tmp_path / "step-1.safetensors")
    with pytest.raises(KolmogramError, match=next(iter(wrong))):
        kolmogram.analyze(tmp_path, task, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_audit_needs_a_worker(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "step-1.safetensors")
    with pytest.raises(KolmogramError, match="workers must be a whole number"):
        kolmogram.audit(tmp_path, workers=0)
