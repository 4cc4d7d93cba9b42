import os
import stat
from pathlib import Path

import pytest
from kolmogram.engine.files import atomic_path, write_bytes, write_text


def test_writes_and_makes_missing_folders(tmp_path):
    write_bytes(tmp_path / "a" / "b.bin", b"\x00\x01")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\x01"


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "table.csv"
    write_text(target, "old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half a tab")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_temporary_file_keeps_the_suffix_and_the_usual_mode(tmp_path):
    ordinary = tmp_path / "ordinary.png"
    ordinary.touch()
    with atomic_path(tmp_path / "figure.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
    assert (tmp_path / "figure.png").stat().st_mode == ordinary.stat().st_mode


def test_a_file_is_synced_before_it_takes_its_name_and_its_folder_afterwards(tmp_path, monkeypatch):
    done = []
    replace = Path.replace

    def synced(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("named"), replace(self, target))[1])
    write_text(tmp_path / "table.csv", "new")
    assert done == ["file", "named", "folder"]
