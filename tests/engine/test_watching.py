import shutil

import pytest
import torch
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import CheckpointError
from kolmogram.engine.watching import changes
from safetensors.torch import save as st_save
from safetensors.torch import save_file


class EndedError(Exception):
    """Nothing more happens in the test."""


@pytest.fixture
def story(tmp_path, monkeypatch):
    """Tells what `changes` gives while one thing after the other happens to a folder, one for every look."""

    def told(*events, where=tmp_path, every=30.0):
        coming = iter(events)

        def sleep(seconds):
            assert seconds == every
            event = next(coming, None)
            if event is None:
                raise EndedError
            event()

        monkeypatch.setattr("kolmogram.engine.watching.time.sleep", sleep)
        given = []
        try:
            for run, fresh in changes(where, every):
                given.append((len(run), sorted(fresh)))
        except EndedError:
            return given

    return told


def saving(folder, step, value=0.0):
    return lambda: save_file({"w": torch.full((3,), value)}, folder / f"step-{step}.safetensors")


def nothing():
    pass


def test_what_is_there_is_given_at_once_and_what_comes_when_it_has_settled(tmp_path, story):
    saving(tmp_path, 1)()
    given = story(
        saving(tmp_path, 2), nothing, nothing, saving(tmp_path, 2, 1.0), saving(tmp_path, 3), nothing, nothing
    )
    one, two, three = (f"step-{step}.safetensors" for step in (1, 2, 3))
    assert given == [(1, [one]), (2, [two]), (2, [two]), (3, [three])], "nobody waits for what comes after"


def test_it_looks_as_often_as_it_is_told(tmp_path, story):
    saving(tmp_path, 1)()
    assert story(nothing, nothing, every=7.5) == [(1, ["step-1.safetensors"])]


def test_a_folder_that_is_still_empty(tmp_path, story):
    assert story(nothing, saving(tmp_path, 5), nothing, nothing) == [(1, ["step-5.safetensors"])]


def test_a_url_that_cannot_be_reached_for_a_while(story, memory, monkeypatch):
    def save(step):
        memory.pipe(f"/run/step-{step}.safetensors", st_save({"w": torch.zeros(3)}))

    def away():
        monkeypatch.setattr(memory, "ls", unreachable, raising=False)

    def back():
        monkeypatch.delattr(memory, "ls")
        save(2)

    with pytest.raises(CheckpointError, match="memory://run: does not exist"):
        next(changes("memory://run"))
    save(1)
    one, two = "step-1.safetensors", "step-2.safetensors"
    assert story(away, nothing, back, nothing, where="memory://run") == [(1, [one]), (2, [two])]


def unreachable(*args, **kwargs):
    raise ConnectionError("no route")


def test_half_a_checkpoint_beside_others(tmp_path, story):
    saving(tmp_path, 1)()
    whole = tmp_path / "step-2.safetensors"

    def half():
        saving(tmp_path, 2)()
        whole.write_bytes(whole.read_bytes()[:30])

    assert story(half, saving(tmp_path, 2), nothing) == [(1, ["step-1.safetensors"]), (2, ["step-2.safetensors"])]
    assert not open_run(tmp_path).problems


def test_a_checkpoint_that_goes(tmp_path, story):
    saving(tmp_path, 1)()
    saving(tmp_path, 2)()
    assert story((tmp_path / "step-1.safetensors").unlink, nothing, nothing)[1:] == [(1, [])]
    shutil.rmtree(tmp_path)
    with pytest.raises(CheckpointError):
        next(changes(tmp_path))
