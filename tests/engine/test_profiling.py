"""Profiling measures, names and restores."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from kolmogram.engine import analysis, profiling, statistics
from kolmogram.engine.analysis import analyze
from kolmogram.engine.errors import BackendError
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


def test_nested_stages_keep_their_own_time(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0, 13.0, 14.5])  # outer, inner from 1 to 4, inner from 6 to 13, outer to 14.5
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    stages = profiling.Stages()
    with stages.stage("outer"):
        with stages.stage("inner"):
            pass
        with stages.stage("inner"):
            pass
    assert stages.seconds == {"inner": 10.0, "outer": 4.5}


def test_what_another_thread_does_meanwhile_is_not_taken_off(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    stages = profiling.Stages()

    def read():
        with stages.stage("theirs"):
            pass

    with stages.stage("ours"), ThreadPoolExecutor(1) as other:
        other.submit(read).result()
    assert stages.seconds == {"theirs": 3.0, "ours": 10.0}


def test_nothing_stays_wrapped(run):
    before = dispatch.moments
    with profiling.recording():
        assert dispatch.moments is not before
    assert dispatch.moments is before
    with pytest.raises(TypeError), profiling.recording():
        dispatch.moments([torch.zeros(1, dtype=torch.complex64)])
    assert dispatch.moments is before


def test_report_on_the_cpu(run):
    report = profiling.profile(sizes=(1000, 5000), run=run)
    assert {"read", "copy", "histograms", "rates", "spectra", "other"} <= report.stages.keys()
    assert all(seconds >= 0 for seconds in report.stages.values())
    rows = report.table()
    assert {row["weights"] for row in rows} == {1000, 5000}
    assert all(row["ms"] > 0 and row["GB/s"] > 0 and row["of_ceiling"] > 0 for row in rows)
    decoded = json.loads(report.to_json())
    assert decoded["backend"] == "cpu"
    assert len(decoded["kernels"]) == len(rows)
    assert report.run_peak_memory_bytes >= report.peak_memory_bytes > 0
    assert "peak memory" in report.summary()


@pytest.mark.parametrize("streamed", [(), ("cpu",)], ids=["at once", "read ahead"])
def test_trace_has_a_range_per_stage(run, tmp_path, monkeypatch, streamed):
    monkeypatch.setattr(statistics, "STREAMED", streamed)
    path = tmp_path / "trace.json"
    analyzed = []
    monkeypatch.setattr(analysis, "analyze", lambda *a, **b: analyzed.append(a) or analyze(*a, **b))
    stages = profiling.profile(sizes=(1000,), run=run, trace=path).stages
    assert len(analyzed) == 1
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert stages.keys() - {"other"} <= names
    assert {"read", "copy", "histograms", "spectra"} <= names


def test_proton_needs_a_gpu(tmp_path):
    with pytest.raises(BackendError, match="proton records kernels on a GPU"):
        profiling.profile(sizes=(1000,), proton=tmp_path / "kernels.hatchet")
    with pytest.raises(BackendError, match="a proton profile ends in"):
        profiling.profile(sizes=(1000,), proton=tmp_path / "kernels.json")
