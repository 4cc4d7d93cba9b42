"""Profiling measures, names and restores."""

import json

import pytest
import torch
from kolmogram.engine import profiling
from kolmogram.kernels import dispatch
from safetensors.torch import save_file


@pytest.fixture
def run(tmp_path):
    for step in (1, 2):
        weights = {"w": torch.randn(40, 30), "b": torch.randn(30)}
        save_file(weights, tmp_path / f"step_{step}.safetensors")
    return tmp_path


def test_every_seam_exists():
    for places in profiling.SEAMS.values():
        for place in places:
            owner, attribute = profiling._resolve(place)
            assert callable(getattr(owner, attribute)), place


def test_nested_stages_keep_their_own_time():
    stages = profiling.Stages()
    with stages.stage("outer"):
        with stages.stage("inner"):
            sum(range(200_000))
        with stages.stage("inner"):
            sum(range(200_000))
    assert stages.seconds["inner"] > stages.seconds["outer"] > 0


def test_nothing_stays_wrapped(run):
    before = dispatch.moments
    with profiling.recording():
        assert dispatch.moments is not before
    assert dispatch.moments is before
    with pytest.raises(TypeError), profiling.recording():
        dispatch.moments(torch.zeros(1, dtype=torch.complex64))
    assert dispatch.moments is before


def test_report_on_the_cpu(run):
    report = profiling.profile(sizes=(1000, 5000), run=run)
    assert {"read", "histograms", "rates", "spectra", "other"} <= report.stages.keys()
    assert all(seconds >= 0 for seconds in report.stages.values())
    rows = report.table()
    assert {row["weights"] for row in rows} == {1000, 5000}
    assert all(row["ms"] > 0 and row["GB/s"] > 0 and row["of_ceiling"] > 0 for row in rows)
    decoded = json.loads(report.to_json())
    assert decoded["backend"] == "cpu"
    assert len(decoded["kernels"]) == len(rows)
    assert report.peak_memory_bytes > 0


def test_trace_has_a_range_per_stage(run, tmp_path):
    path = tmp_path / "trace.json"
    stages = profiling.trace(path, run, device="cpu")
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert stages.keys() - {"other"} <= names
    assert {"read", "histograms", "spectra"} <= names
