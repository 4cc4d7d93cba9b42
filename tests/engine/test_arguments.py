"""Nonsense is refused in one line by whoever is asked, before anything is done."""

import kolmogram
import numpy as np
import pytest
import torch
from kolmogram import KolmogramError
from kolmogram.engine.arguments import METHODS, at_least_one, checked_method
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
