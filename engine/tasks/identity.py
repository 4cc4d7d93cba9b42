"""What a value is, as a digest: the same in every process, another one when the value behaves otherwise."""

import functools
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def digest(*values: Any) -> str:
    """32 hex digits of tensors, numbers, texts, containers, functions and whatever has attributes.

    A function counts by its code, its defaults and what it closes over; any other object by its class and attributes,
    or by what it would be pickled as.
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
    elif isinstance(value, set | frozenset):
        yield from sorted(value, key=repr)  # their own order is another in every process
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, CodeType):
        yield from (value.co_code, value.co_names, value.co_consts)
    elif isinstance(value, FunctionType):
        yield from (value.__qualname__, value.__code__)
        yield from (value.__defaults__, value.__kwdefaults__, [cell.cell_contents for cell in value.__closure__ or ()])
    elif isinstance(value, nn.Module):
        yield from (repr(value), dict(value.named_parameters()), dict(value.named_buffers()))
        yield {name: item for name, item in vars(value).items() if not name.startswith("_")}
    elif isinstance(value, type | ModuleType):
        yield getattr(value, "__qualname__", value.__name__)
    elif hasattr(value, "__dict__"):
        yield vars(value)
    else:  # arrays, paths, what has slots
        yield _pickled(value)


def _pickled(value: Any) -> Any:
    """What it would be made of again; its name, if it has one, where that is not possible."""
    try:
        return value.__reduce_ex__(2)
    except Exception:  # whatever somebody's class finds to say
        return getattr(value, "__qualname__", "")
