"""Runs behind URLs: in fsspec's own memory file system, and on a hub that the hub's own client talks to."""

import io
import sys

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import constants, save_torch_state_dict
from kolmogram.engine.checkpoints import open_run, sources
from kolmogram.engine.checkpoints.location import local, location
from kolmogram.engine.errors import CheckpointError
from safetensors.torch import save, save_file

from .hub import serving

LARGE = torch.randn(300, 400, generator=torch.Generator().manual_seed(0))  # more than a block
STATE = {
    "large": LARGE,
    "bias": LARGE[0].clone(),
    "half": LARGE[:9].half(),
    "deep": LARGE.view(3, 100, 20, 20)[:2].clone(),
}


@pytest.fixture
def fetched(monkeypatch):
    """(begin, end) of every request for bytes."""
    requests = []
    fetch = sources.RemoteFile.fetch

    def noted(self, begin, end):
        requests.append((begin, end))
        return fetch(self, begin, end)

    monkeypatch.setattr(sources.RemoteFile, "fetch", noted)
    return requests


def arrays():
    return {name: tensor.numpy() for name, tensor in STATE.items()}


def made(folder):
    folder.mkdir()
    return folder


WRITERS = {
    "safetensors": lambda folder: save_file(STATE, folder / "step-7.safetensors"),
    "torch": lambda folder: torch.save({"model": STATE, "step": 7}, folder / "last.pt"),
    "old torch": lambda folder: torch.save(STATE, folder / "step7.pt", _use_new_zipfile_serialization=False),
    "npz": lambda folder: np.savez(folder / "step_7.npz", **arrays()),
    "packed npz": lambda folder: np.savez_compressed(folder / "step_7.npz", **arrays()),
    "shards": lambda folder: save_torch_state_dict(STATE, made(folder / "checkpoint-7"), max_shard_size="400KB"),
    "dcp": lambda folder: dcp.save({"model": STATE, "step": 7}, checkpoint_id=folder / "step-7", no_dist=True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_as_it_is_on_this_machine(writer, tmp_path, memory, assert_same):
    WRITERS[writer](tmp_path)
    memory.put(str(tmp_path), "/run", recursive=True)
    (here,), (there,) = open_run(tmp_path), open_run("memory://run")
    assert_same(there, STATE)
    assert (there.step, there.name, there.format, there.metrics) == (7, here.name, here.format, here.metrics)
    assert [there.info(name) for name in there.names()] == [here.info(name) for name in here.names()]


def test_only_what_is_asked_for_is_fetched(memory, fetched):
    data = save(STATE)
    memory.pipe("/run/step-1.safetensors", data)
    (checkpoint,) = open_run("memory://run")
    assert fetched == [(0, sources.BLOCK)]  # the header, with what follows it
    order = checkpoint.names()
    spans = [checkpoint._stored(name) for name in order]
    for name in order:
        checkpoint.tensor(name)
    inside = [span.offset + span.covered() <= sources.BLOCK for span in spans]
    assert any(inside)
    assert not all(inside)
    assert (spans[order.index("large")].offset, spans[order.index("large")].offset + LARGE.nbytes) in fetched
    assert sum(end - begin for begin, end in fetched) < len(data) + 3 * sources.BLOCK


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 1), (9, 9), (sources.BLOCK - 1, sources.BLOCK + 1), (5, 5 + sources.BLOCK), (7, 699_999)]
)
def test_any_range_of_a_remote_file(begin, end, memory):
    data = np.random.default_rng(0).bytes(700_000)
    memory.pipe("/file", data)
    file = sources.source(location("memory://file"))
    assert file.read(begin, end - begin) == data[begin:end]
    with file.open() as stream:
        stream.seek(-100, io.SEEK_END)
        assert stream.read() == data[-100:]
    with pytest.raises(CheckpointError, match="truncated or lies"):
        file.read(699_999, 2)


def test_a_file_a_folder_and_globs(memory):
    for step in (1, 20, 3):
        memory.pipe(f"/a/run/step-{step}/model.safetensors", save({"w": torch.full((2,), float(step))}))
    memory.pipe("/a/run/.hidden/model.safetensors", save({"w": torch.zeros(2)}))
    memory.pipe("/a/run/config.json", b'{"size": 5}')
    run = open_run("memory://a/run")
    assert [(c.name, c.step) for c in run] == [("step-1", 1), ("step-3", 3), ("step-20", 20)]
    assert [c.name for c in open_run("memory://a/run/")] == [c.name for c in run]
    assert run.config == {"size": 5}
    memory.pipe("/a/run/config.json", b" " * 10_000_001)
    assert "config.json: has 10000001 bytes" in str(open_run("memory://a/run").problems[0])
    assert [c.step for c in open_run("memory://a/run/step-[13]*")] == [1, 3]
    assert [c.step for c in open_run("memory://a/*/step-2*/*.safetensors")] == [20]
    assert [c.step for c in open_run("memory://a/run/step-3/model.safetensors")] == [3]


def test_what_is_broken_behind_a_url_is_named(memory):
    whole = save(STATE)
    memory.pipe({"/run/step-1.safetensors": whole, "/run/step-2.safetensors": whole[:-5], "/run/step-3.pt": b""})
    good, short, empty = open_run("memory://run")
    assert good.broken is None
    assert "memory://run/step-2.safetensors: is truncated" in str(short.broken)
    assert "step-3.pt: is empty" in str(empty.broken)
    memory.pipe("/run/step-1.safetensors", whole[:1000])
    with pytest.raises(CheckpointError, match=r"step-1.safetensors: gave \d+ bytes where 480000 were asked for"):
        good.tensor("large")
    memory.rm("/run/step-1.safetensors")
    with pytest.raises(
        CheckpointError, match=r"step-1.safetensors: could not be reached \(FileNotFoundError.*try again"
    ):
        good.tensor("large")


def test_the_fingerprint_changes_with_the_version_of_a_file(memory):
    memory.pipe("/run/step-1.safetensors", save({"w": torch.zeros(3)}))
    before = open_run("memory://run")[0].fingerprint()
    assert open_run("memory://run")[0].fingerprint() == before
    memory.pipe("/run/step-1.safetensors", save({"w": torch.ones(3)}))
    assert open_run("memory://run")[0].fingerprint() != before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", "memory://nowhere: does not exist"),
        ("memory://no*", "memory://no.*: nothing matches"),
        ("unheard-of://run", "no file system of that kind.*pip install"),
        ("smb://host/run", "smb://host/run: .*smbprotocol.*pip install"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line(url, message, memory):
    with pytest.raises(CheckpointError, match=message) as error:
        open_run(url)
    assert str(error.value).startswith(url)
    assert "\n" not in str(error.value)


def test_without_the_extra_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(CheckpointError, match=r"s3://bucket/run: a URL needs upath; pip install 'kolmogram\[hub\]'"):
        open_run("s3://bucket/run")


def test_a_file_url_is_a_path_of_this_machine(tmp_path, assert_same):
    save_file(STATE, tmp_path / "step-7.safetensors")
    run = open_run(f"file://{tmp_path}")
    assert run.path == tmp_path
    assert_same(run[0], STATE)


def test_a_folder_as_it_is_or_a_copy_of_some_of_its_files(tmp_path, memory):
    memory.pipe({"/m/config.json": b"{}", "/m/tokenizer.json": b"[]", "/m/model.safetensors": b"large"})
    with local(location("memory://m"), "*.json") as copy:
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
            "config.json": b"{}",
            "tokenizer.json": b"[]",
        }
    assert not copy.exists()
    with local(tmp_path, "*.json") as same:
        assert same == tmp_path


@pytest.fixture
def hub(monkeypatch):
    """The revisions of org/model, on a hub that the client library has been told of."""
    revisions = {"main": {"README.md": b"no weights"}}
    with serving({"org/model": revisions}) as address:
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", address)  # HF_ENDPOINT is looked at when the library is imported
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield revisions


def test_the_revisions_of_a_model_are_a_run(hub, assert_same):
    for step in (0, 1000, 64):
        hub[f"step{step}"] = {"config.json": b"{}", "model.safetensors": save({**STATE, "bias": STATE["bias"] + step})}
    run = open_run("hf://org/model@step*")
    assert [(c.step, c.name) for c in run] == [(s, f"model@step{s}") for s in (0, 64, 1000)]
    for checkpoint in run:
        assert_same(checkpoint, {**STATE, "bias": STATE["bias"] + checkpoint.step})
    (one,) = open_run("hf://org/model@step64")
    assert one.step == 64
    assert_same(one, {**STATE, "bias": STATE["bias"] + 64})


def test_a_revision_with_a_slash_in_its_name(hub, assert_same):
    hub["run/step5"] = {"model.safetensors": save(STATE)}
    (checkpoint,) = open_run("hf://org/model@run*")
    assert (checkpoint.step, checkpoint.name) == (5, "model@run/step5")
    assert_same(checkpoint, STATE)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://org/model@step*", "nothing matches"),
        ("hf://org/model@absent", "does not exist"),
        ("hf://org/model", "hf://org/model: holds no checkpoint"),
        ("hf://org/absent", "does not exist"),
        ("hf://org/absent@*", r"could not be reached \(RepositoryNotFoundError"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(url, message, hub):
    with pytest.raises(CheckpointError, match=message) as error:
        open_run(url)
    assert "\n" not in str(error.value)
