"""What a value is, as a digest: the same in every process, another one when the value behaves otherwise."""

import functools
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn


def digest(*values: Any) -> str:
    """32 hex digits of tensors, numbers, texts, containers, functions and whatever has attributes.

    A function counts by its code, its defaults and what it closes over; any other object by its class and attributes.
    What lies behind a global name is not followed.
    """
    found = blake2b(digest_size=16)
    for part in _parts(values, ()):
        found.update(part + b"\0")
    return found.hexdigest()


def _parts(value: Any, above: tuple[Any, ...]) -> Iterator[bytes]:
    """`above` are the values that this one was found in: what holds itself is not entered again."""
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield repr(value).encode()
    elif not any(value is other for other in above):
        yield f"{type(value).__module__}.{type(value).__qualname__}".encode()
        for item in _contents(value):
            yield from _parts(item, (*above, value))
        yield b"end"
    else:
        yield b"itself"


def _contents(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from (item for pair in value.items() for item in pair)
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, FunctionType):
        code = value.__code__
        yield from (value.__qualname__, code.co_code, [c for c in code.co_consts if not hasattr(c, "co_code")])
        yield from (value.__defaults__, value.__kwdefaults__, [cell.cell_contents for cell in value.__closure__ or ()])
    elif isinstance(value, nn.Module):
        yield from (repr(value), dict(value.named_parameters()), dict(value.named_buffers()))
        yield {name: item for name, item in vars(value).items() if not name.startswith("_")}
    elif isinstance(value, type) or not hasattr(value, "__dict__"):
        yield getattr(value, "__qualname__", "")
    else:
        yield vars(value)
