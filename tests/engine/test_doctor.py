"""The doctor has something to say whatever is wrong."""

import tomllib
from pathlib import Path

import pytest
from kolmogram.engine.doctor import OPTIONAL, diagnose


@pytest.mark.parametrize("backend", ["triton", "nonsense"])
def test_a_backend_that_cannot_run_is_a_finding(monkeypatch, backend):
    monkeypatch.setenv("KOLMOGRAM_BACKEND", backend)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("kolmogram.engine.devices.usable", lambda name: "cpu")
    findings = {finding.what: finding for finding in diagnose()}
    assert backend in findings["backend"].state
    assert not findings["backend"].ok
    assert findings["kernels"] == ("kernels", "not tried, as there is no backend", False)
    assert "lightning" in findings


def test_every_extra_is_told_of():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {extra for extra, _ in OPTIONAL.values()} == set(project["optional-dependencies"]) - {"dev"}
