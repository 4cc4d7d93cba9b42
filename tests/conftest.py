"""Without a GPU, Triton kernels run in Triton's interpreter: it must know before anything imports it."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does: tests run beside each other
