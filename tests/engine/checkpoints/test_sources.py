"""Bytes of files: what tells that they have been written again, and where they end."""

import os

import pytest
from kolmogram.engine.checkpoints.sources import LocalFile, Part, identity
from kolmogram.engine.errors import CheckpointError


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(200_000))
    return path


@pytest.mark.parametrize("place", [0, -1], ids=["front", "back"])
def test_the_identity_of_a_large_file_has_both_its_ends(large, place):
    before, stamp = identity(large), large.stat().st_mtime_ns
    data = bytearray(large.read_bytes())
    data[place] = 1
    large.write_bytes(data)
    os.utime(large, ns=(stamp, stamp))
    assert identity(large) != before


def test_the_identity_of_a_file_has_its_time(large):
    before, stamp = identity(large), large.stat().st_mtime_ns
    os.utime(large, ns=(stamp, stamp + 1))  # as what is written between the two ends
    assert identity(large) != before


def test_a_part_of_a_file_ends_where_it_ends(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(10)))
    part = Part(LocalFile.at(tmp_path / "file"), 2, 4)
    assert part.read(0, 4) == bytes([2, 3, 4, 5])
    for refused in (lambda: part.read(2, 4), lambda: part.fill(2, memoryview(bytearray(4)))):
        with pytest.raises(CheckpointError, match="truncated"):
            refused()
    with part.open() as stream:
        assert stream.read() == bytes([2, 3, 4, 5])
