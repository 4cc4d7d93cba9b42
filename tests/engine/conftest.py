"""A file system that is nowhere on this machine."""

import fsspec
import pytest
from kolmogram.engine.checkpoints import sources


@pytest.fixture
def memory():
    """fsspec's own, in memory, empty: `memory.pipe("/run/a.pt", data)` is at memory://run/a.pt."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    sources._block.cache_clear()
    yield system
    system.store.clear()
