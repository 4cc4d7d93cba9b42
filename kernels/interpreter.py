"""For Triton's interpreter (TRITON_INTERPRET=1): the lines of inline PTX in `counters`, which it does not know.

Shared memory comes poisoned, so that a kernel that forgets to clear its counters shows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

POISON = 0xDEADBEEF

increments: list[int] = []  # how many counters each increment hit: proof that shared counters were used

_shared = np.zeros(0, np.uint32)


class _Result:
    def __init__(self, values: np.ndarray) -> None:
        self.handle = interpreter.TensorHandle(values, tl.int32)

    def get_result(self, _: int) -> Any:
        return self.handle


def _declare() -> np.ndarray:
    global _shared
    _shared = np.full(8192, POISON, np.uint32)
    return np.array([0], np.int32)


def _clear(address: np.ndarray) -> np.ndarray:
    _shared[address // 4] = 0
    return np.zeros_like(address)


def _increment(address: np.ndarray) -> np.ndarray:
    assert (address % 4 == 0).all()
    assert address.min() >= 0
    assert address.max() < 4 * _shared.size
    np.add.at(_shared, address.ravel() // 4, np.uint32(1))
    increments.append(address.size)
    return np.zeros_like(address)


def _load(address: np.ndarray) -> np.ndarray:
    return _shared[address // 4].view(np.int32)


_INSTRUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    ".shared": _declare,
    "st.shared": _clear,
    "red.shared": _increment,
    "ld.shared": _load,
}


def _inline_asm(builder: Any, asm: str, constraints: str, values: list[Any], *rest: Any) -> _Result:
    name = next(name for name in _INSTRUCTIONS if asm.startswith(name))
    return _Result(_INSTRUCTIONS[name](*(np.asarray(value.data) for value in values)))


def install() -> None:
    """Teach the interpreter; once is enough."""
    setattr(interpreter.InterpreterBuilder, "create_inline_asm", _inline_asm)  # noqa: B010 (typed as the compiler's)
