"""Real little runs, and what may have happened to them since."""

import csv
import shutil

import pytest
import torch
from kolmogram.engine.audit import audit
from kolmogram.engine.audit.evidence import Evidence, gather
from kolmogram.engine.audit.findings import missing_steps
from kolmogram.engine.checkpoints import Checkpoint, open_run
from kolmogram.engine.errors import CheckpointError
from safetensors.torch import load_file, save_file

STEPS = tuple(range(0, 800, 100))


def trained(folder, seed):
    """A network that learns a function of rank two; a checkpoint every hundred steps."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(48, 64),
        torch.nn.LayerNorm(64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.Linear(64, 40),
    )
    x = torch.randn(256, 48)
    y = torch.tanh(x @ torch.randn(48, 2)) @ torch.randn(2, 40)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.1)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            state = model.state_dict() | {"mask": torch.ones(4, dtype=torch.bool)}
            save_file(state, folder / f"step-{step:08d}.safetensors", metadata={"step": str(step)})
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        trained(folder, seed)
        found.append(folder)
    return found


@pytest.fixture
def run(runs, tmp_path):
    """A copy to spoil."""
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    return folder


def path(folder, step):
    return folder / f"step-{step:08d}.safetensors"


def put(folder, step, state, said=None):
    save_file(state, path(folder, step), metadata={"step": str(step if said is None else said)})


def seen(folder, **options):
    """(step, finding) of everything that is wrong."""
    return {(f.step, f.finding) for f in audit(folder, **options).wrong}


def test_a_sound_run_is_sound(runs):
    for folder in runs:
        result = audit(folder)
        assert result.checkpoints == len(STEPS)
        assert result.findings == []


def test_final_weights_under_an_early_step(run):
    put(run, 200, load_file(path(run, 700)))
    (finding,) = audit(run).findings
    assert (finding.step, finding.finding, finding.is_wrong) == (200, "same weights", True)
    assert "step 700" in finding.evidence


def test_a_copy_of_the_last_step_is_a_note(run):
    shutil.copy(path(run, 700), run / "last.safetensors")
    (finding,) = audit(run).findings
    assert (finding.finding, finding.is_wrong) == ("copy", False)


@pytest.mark.parametrize("step", [0, 300, 700])
def test_a_copy_that_says_no_step_is_a_note(run, step):
    for name in ("best", "last"):
        torch.save(load_file(path(run, step)), run / f"{name}.pt")
    (finding,) = audit(run).findings
    assert (finding.step, finding.finding, finding.is_wrong) == (step, "copy", False)
    assert finding.evidence == "bit for bit as in best.pt, last.pt"


def test_a_copy_that_says_no_step_hides_nothing(runs, run):
    last = load_file(path(run, 700))
    put(run, 300, load_file(path(run, 300)) | {"0.weight": last["0.weight"]})
    put(run, 400, load_file(path(run, 400)) | {"3.weight": last["3.weight"] * (torch.arange(64) < 32)})
    put(run, 600, load_file(path(runs[1], 300)))
    before = seen(run)
    assert {(300, "stale tensors"), (400, "zeros"), (600, "another network")} <= before
    for step, name in [(300, "best"), (400, "last"), (600, "latest")]:
        torch.save(load_file(path(run, step)), run / f"{name}.pt")
    assert seen(run) == before


def test_one_shard_of_another_step(run):
    state = load_file(path(run, 300))
    put(run, 300, state | {name: value for name, value in load_file(path(run, 700)).items() if name.startswith("0.")})
    (finding,) = audit(run).findings
    assert (finding.step, finding.finding) == (300, "stale tensors")
    assert "2 tensors (0.bias, 0.weight) as in step 700" in finding.evidence


def test_all_that_is_wrong_is_told_in_the_order_of_steps(run):
    last = load_file(path(run, 700))
    put(run, 600, load_file(path(run, 600)) | {name: value for name, value in last.items() if name[0] == "4"})
    path(run, 500).write_bytes(b"nothing")
    put(run, 300, load_file(path(run, 300)) | {name: value for name, value in last.items() if name[0] == "0"})
    put(run, 100, last)
    found = [(f.step, f.finding) for f in audit(run).findings]
    assert found == [(100, "same weights"), (300, "stale tensors"), (500, "cannot be read")]


def test_steps_that_were_mixed_up(run):
    late, early = load_file(path(run, 600)), load_file(path(run, 200))
    put(run, 200, late)
    put(run, 600, early)
    assert seen(run) >= {(200, "out of place"), (600, "out of place")}


@pytest.mark.parametrize(("one", "other"), [(100, 200), (300, 500), (300, 600), (600, 700)])
def test_two_close_by_in_each_others_place(run, one, other):
    early, late = load_file(path(run, one)), load_file(path(run, other))
    put(run, one, late)
    put(run, other, early)
    found = [(f.step, f.finding, f.evidence) for f in audit(run).wrong]
    assert any(step == one and what == "exchanged" and f"step {other}" in said for step, what, said in found)


def test_a_checkpoint_of_another_run(runs, run):
    shutil.copy(path(runs[1], 300), path(run, 300))
    assert seen(run) == {(300, "another network"), (400, "another network")}


def test_a_run_that_does_not_descend_from_its_first_step(runs, run):
    shutil.copy(path(runs[1], 0), path(run, 0))
    assert seen(run) == {(100, "another network")}


def test_a_restart_from_fresh_noise(runs, run):
    shutil.copy(path(runs[1], 0), path(run, 700))
    put(run, 700, load_file(path(run, 700)))
    assert seen(run) == {(700, "random"), (700, "another network")}


def test_a_single_checkpoint_of_noise(run):
    assert seen(path(run, 700)) == set()
    assert seen(path(run, 0)) == set(), "which step 0 should be"
    put(run, 700, load_file(path(run, 0)))
    assert seen(path(run, 700)) == {(700, "random")}


def test_a_matrix_that_nobody_trained_is_a_note(run):
    state = load_file(path(run, 700)) | {"pooler": torch.randn(64, 64, generator=torch.Generator().manual_seed(5))}
    put(run, 700, state)
    (finding,) = audit(path(run, 700)).findings
    assert (finding.finding, finding.is_wrong) == ("like noise", False)
    assert finding.evidence == "1 matrix (pooler) cannot be told from fresh noise"


def test_a_shard_that_reads_as_zeros(run):
    state = load_file(path(run, 400))
    state["3.weight"][32:] = 0
    put(run, 400, state)
    found = seen(run)
    assert (400, "zeros") in found
    assert {step for step, _ in found} == {400}


def test_not_finite(run):
    state = load_file(path(run, 500))
    state["3.weight"][0, :2] = torch.tensor([torch.nan, torch.inf])
    put(run, 500, state)
    (finding,) = audit(run).findings
    assert (finding.step, finding.finding) == (500, "not finite")
    assert finding.evidence.startswith("2 entries")


def test_other_names_shapes_and_types(run):
    state = load_file(path(run, 500))
    state["4.new"] = state.pop("4.bias")
    state["3.weight"] = state["3.weight"][:32].contiguous()
    state["0.bias"] = state["0.bias"].bfloat16()
    put(run, 500, state)
    found = {f.finding: f.evidence for f in audit(run).findings}
    assert "lacks 1 tensor (4.bias)" in found["other tensors"]
    assert "has besides 1 tensor (4.new)" in found["other tensors"]
    assert "3.weight (32×64 float32, not 64×64 float32)" in found["other tensors"]
    assert "0.bias (64 bfloat16, not 64 float32)" in found["other tensors"]


def test_a_step_twice_with_other_weights(run):
    put(run, 550, load_file(path(run, 600)), said=500)
    found = audit(run).findings
    assert any(f.finding == "step repeated" and f.step == 500 for f in found)
    assert any(f.finding == "named otherwise" and "550" in f.evidence and not f.is_wrong for f in found)


def test_a_name_that_counts_from_one_is_no_finding(run):
    put(run, 401, load_file(path(run, 400)), said=400)
    path(run, 400).unlink()
    assert audit(run).findings == []


def test_missing_steps_are_a_note(run, tmp_path):
    path(run, 300).unlink()
    path(run, 500).unlink()
    (finding,) = audit(run, tmp_path / "out").findings
    assert (finding.finding, finding.is_wrong, finding.checkpoint) == ("missing steps", False, "")
    assert "300, 500" in finding.evidence
    (row,) = csv.DictReader((tmp_path / "out" / "audit.csv").open())
    assert (row["checkpoint"], row["step"], row["finding"]) == ("", "", "missing steps")


def test_steps_that_nobody_meant_to_save_are_not_missing():
    assert list(missing_steps([0, 1, 2, 4, 8, 16, 100, 200, 300, 400, 500, 600, 700, 10**12, None])) == []
    assert list(missing_steps([0, 4, 10, 19, 30])) == []


def test_frozen_tensors_are_a_note(run):
    frozen = load_file(path(run, 700))["3.weight"]
    for step in STEPS:
        put(run, step, load_file(path(run, step)) | {"3.weight": frozen})
    (finding,) = audit(run).findings
    assert (finding.finding, finding.is_wrong) == ("never changes", False)


def test_what_cannot_be_read_costs_only_itself(run, tmp_path):
    path(run, 300).write_bytes(path(run, 300).read_bytes()[:-100])
    (finding,) = audit(run).wrong
    assert (finding.checkpoint, finding.finding) == ("step-00000300.safetensors", "cannot be read")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError):
        audit(empty)


def test_checkpoints_are_read_once_and_tables_are_written(run, tmp_path, monkeypatch):
    put(run, 200, load_file(path(run, 700)))
    first = audit(run, tmp_path / "out", workers=2)
    read, items = [], Checkpoint.items
    monkeypatch.setattr(Checkpoint, "items", lambda self: read.append(self.step) or items(self))
    assert audit(run, tmp_path / "out").findings == first.findings
    assert not read
    put(run, 200, load_file(path(run, 600)))
    assert audit(run, tmp_path / "out").findings != first.findings
    assert read == [200]
    rows = list(csv.reader((tmp_path / "out" / "audit.csv").open()))
    assert rows[0] == ["checkpoint", "step", "finding", "evidence", "is_wrong"]
    assert rows[1][:3] == ["step-00000200.safetensors", "200", "same weights"]


def test_evidence_survives_the_store_for_every_type(tmp_path):
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(40, 70, generator=generator)
    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
    state = {str(dtype): wide.to(dtype) for dtype in types}
    state |= {
        "n": torch.tensor(3),
        "scalar": torch.tensor(0.5),
        "none": torch.zeros(0, 4),
        "flags": torch.ones(3).bool(),
    }
    state |= {"complex": torch.complex(wide, wide), "zeros": torch.zeros(50, 50)}
    torch.save(state, tmp_path / "step-5.pt")
    (checkpoint,) = open_run(tmp_path)
    evidence = gather(checkpoint)
    again = Evidence.from_bytes(checkpoint, evidence.to_bytes())
    assert repr(again.tensors) == repr(evidence.tensors), "NaN is not equal to itself"
    assert again.samples.keys() == evidence.samples.keys()
    assert all((again.samples[name] == sample).all() for name, sample in evidence.samples.items())
    by_name = {t.name: t for t in evidence.tensors}
    assert by_name["zeros"].constant
    assert by_name["flags"].constant
    assert not by_name["complex"].constant
    assert by_name["torch.bfloat16"].excess == pytest.approx(by_name["torch.float64"].excess, rel=1e-3)
    assert 0.8 < by_name["torch.float32"].excess < 1.05, "noise is noise"
