"""8192 counters in shared memory, for the kernels that count.

Triton has no atomics on shared memory, so four lines of PTX are written by hand: on NVIDIA GPUs, `+1` becomes one
instruction that merges equal addresses of a warp. Elsewhere (SHARED = False) every count is a relaxed global atomic.
"""

# Triton infers the types of a kernel.
# ruff: noqa: ANN001, ANN201
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

COUNTERS = tl.constexpr(8192)
PADDING = tl.constexpr(8190)  # takes what lanes without a weight count; never flushed

DECLARE = tl.constexpr(".shared .align 16 .b8 kolmogram_counters[32768]; mov.u32 $0, kolmogram_counters;")
CLEAR = tl.constexpr("st.shared.u32 [$1], 0; mov.u32 $0, 0;")
INCREMENT = tl.constexpr("red.shared.add.u32 [$1], 1; mov.u32 $0, 0;")
LOAD = tl.constexpr("ld.shared.u32 $0, [$1];")


@triton.jit
def declare(SHARED: tl.constexpr):
    """Address of the block's counters; call once in a kernel."""
    counters = 0
    if SHARED:
        counters = tl.inline_asm_elementwise(DECLARE, "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    return counters


@triton.jit
def clear(counters, SHARED: tl.constexpr, THREADS: tl.constexpr):
    """All counters to zero."""
    if SHARED:
        for i in tl.static_range(COUNTERS // THREADS):
            address = counters + (i * THREADS + tl.arange(0, THREADS)) * 4
            tl.inline_asm_elementwise(CLEAR, "=r,r", [address], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()


@triton.jit
def count(counters, out_ptr, index, SHARED: tl.constexpr):
    """One more of each index."""
    if SHARED:
        tl.inline_asm_elementwise(INCREMENT, "=r,r", [counters + index * 4], dtype=tl.int32, is_pure=False, pack=1)
    else:
        tl.atomic_add(out_ptr + index, 1, mask=index != PADDING, sem="relaxed")


@triton.jit
def read(counters, i, THREADS: tl.constexpr):
    """Indices [THREADS] of the i-th part of the shared counters, and their counts; after a barrier."""
    index = i * THREADS + tl.arange(0, THREADS)
    return index, tl.inline_asm_elementwise(LOAD, "=r,r", [counters + index * 4], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def flush(counters, out_ptr, SHARED: tl.constexpr, THREADS: tl.constexpr):
    """Add the counters to out_ptr, int64 (COUNTERS,)."""
    if SHARED:
        tl.debug_barrier()
        for i in tl.static_range(COUNTERS // THREADS):
            index, n = read(counters, i, THREADS)
            tl.atomic_add(out_ptr + index, n.to(tl.int64), mask=(n != 0) & (index < PADDING), sem="relaxed")
        tl.debug_barrier()
