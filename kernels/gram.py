"""Triton: Gram matrix AᵀA of a tall matrix, products and sums in float64 without a float64 copy of A."""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64  # columns
ROWS = 16  # rows at a time
WARPS = 4
LEAST_ROWS = 1024  # per split of the rows


@triton.jit
def _kernel(
    matrix_ptr,  # (m, n), any strides
    gram_ptr,  # float64 (splits, n, n): the upper tiles are written
    m,
    n,
    rows,  # of each split, a multiple of ROWS
    row_stride,
    column_stride,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
):
    left_tile, right_tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if left_tile > right_tile:
        return
    left = left_tile * TILE + tl.arange(0, TILE)
    right = right_tile * TILE + tl.arange(0, TILE)
    total = tl.zeros([TILE, TILE], tl.float64)
    begin = split.to(tl.int64) * rows
    for start in range(0, rows, ROWS):
        row = begin + start + tl.arange(0, ROWS)
        row_ptr = matrix_ptr + row * row_stride
        a = tl.load(
            row_ptr[None, :] + left[:, None].to(tl.int64) * column_stride,
            mask=(row[None, :] < m) & (left[:, None] < n),
            other=0,
        )  # [TILE, ROWS]
        b = tl.load(
            row_ptr[:, None] + right[None, :].to(tl.int64) * column_stride,
            mask=(row[:, None] < m) & (right[None, :] < n),
            other=0,
        )  # [ROWS, TILE]
        total = tl.dot(a.to(tl.float64), b.to(tl.float64), total, out_dtype=tl.float64)
    gram_ptr += split.to(tl.int64) * n * n
    inside = (left[:, None] < n) & (right[None, :] < n)
    tl.store(gram_ptr + left[:, None].to(tl.int64) * n + right[None, :], total, mask=inside)


def gram(matrix: Tensor, splits: int) -> Tensor:
    """AᵀA, (n, n) float64, of a float32, float16 or bfloat16 matrix (m, n); rows are summed in up to `splits` parts."""
    m, n = matrix.shape
    splits = max(1, min(splits, m // LEAST_ROWS))
    rows = -(-m // (splits * ROWS)) * ROWS
    parts = torch.zeros(splits, n, n, dtype=torch.float64, device=matrix.device)
    tiles = -(-n // TILE)
    _kernel[(tiles, tiles, splits)](
        matrix, parts, m, n, rows, matrix.stride(0), matrix.stride(1), TILE=TILE, ROWS=ROWS, num_warps=WARPS
    )
    upper = parts.sum(0).triu()
    return upper + upper.triu(1).mT
