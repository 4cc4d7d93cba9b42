"""Walking a checkpoint costs one tensor of memory, whatever its format."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

MEGABYTES, COUNT = 48, 5  # above 32 MB the allocator gives freed memory straight back
WALK = """
import sys
from kolmogram.engine.checkpoints import open_run

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

before = high_water()
(checkpoint,) = open_run(sys.argv[1])
for name, tensor in checkpoint.items():
    del tensor
one_at_a_time = high_water() - before
everything = [tensor for _, tensor in checkpoint.items()]
print(one_at_a_time, high_water() - before)
"""
WRITERS = {
    "safetensors": save_file,
    "pt": lambda state, path: torch.save({"model": state, "optimizer": {"moments": torch.zeros(1 << 24)}}, path),
    "pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "dcp": lambda state, path: dcp.save({"model": state}, checkpoint_id=path, no_dist=True),
    "npz": lambda state, path: np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()}),
}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
@pytest.mark.parametrize("suffix", WRITERS)
def test_one_tensor_at_a_time(tmp_path, suffix):
    path = tmp_path / f"step_1.{suffix}"
    WRITERS[suffix]({f"layer.{index}": torch.ones(MEGABYTES << 18) for index in range(COUNT)}, path)
    done = subprocess.run([sys.executable, "-c", WALK, str(path)], capture_output=True, text=True, check=True)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    one_at_a_time, everything = map(int, done.stdout.split())
    assert everything >= COUNT * MEGABYTES
    assert one_at_a_time <= MEGABYTES + 24  # the readers' own modules and the listing
