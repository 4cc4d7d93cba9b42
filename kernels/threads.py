"""Threads of our own for the CPU, each of which does whole pieces of work alone."""

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@functools.lru_cache(maxsize=1)
def pool(workers: int) -> ThreadPoolExecutor:
    """The threads of the CPU kernels."""
    return ThreadPoolExecutor(workers, thread_name_prefix="kolmogram")


def with_one_blas_thread_each(function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """function(piece) for each, over the threads. NumPy's BLAS keeps to one thread meanwhile: on matrices of a few
    hundred columns its own would mostly wait for each other.
    """
    with one_blas_thread():
        return list(pool(torch.get_num_threads()).map(function, pieces))


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's BLAS keeps to one thread: on small matrices more only wait for each other."""
    return _blas().limit(limits=1, user_api="blas")


@functools.cache
def _blas() -> ThreadpoolController:
    """Found once: to look through all libraries of a process takes milliseconds."""
    return ThreadpoolController()
