"""What the pickle inside a torch.save file means: views of storages, and which of them are the model's weights.

The pickled calls are those of torch/_utils.py (`_rebuild_tensor_v2` and its kin); none of them is made.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch

from .contents import Contents
from .faults import broken, no_weights
from .pickles import Global, Unknown
from .sources import Bytes
from .steps import EPOCH_KEYS, STEP_KEYS, count_among, numbers
from .stored import Span, counts, shape_of

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}
LONGEST_NAME = 1 << 12  # characters of a tensor's dotted name
LARGEST_NAMES = 1 << 26  # characters of all of them
MOST_VIEWS = 4  # times the size of the file that its tensors may have together; fused and tied weights share bytes
LARGEST_EXCESS = 1 << 26  # bytes beyond the size of the file that are no matter either way

_NUMPY_ARRAYS = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}

# Where trainers put the model beside everything else, most telling first.
_MODEL_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "module")
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")  # of a pickled nn.Module
_TRAINING_STATE = re.compile(
    r"optim|sched|scaler|callbacks|loops|(^|_)(rng|ema)(_|$)|(^|_)random_state|hyper_parameters"
)


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the file, by its key; where that is, the container knows."""

    key: str
    dtype: torch.dtype
    start: Any = 0  # elements before this view of the storage (only in old files)


class Leaf:
    """A tensor in the structure of a checkpoint, in whatever way it is stored."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class View(Leaf):
    """A tensor: elements of a storage, not yet located in the file nor checked."""

    storage: Storage
    dtype: torch.dtype
    offset: Any  # in elements
    shape: Any
    stride: Any


@dataclass(frozen=True, slots=True)
class Unreadable(Leaf):
    """A tensor of a kind that is not plain elements in memory."""

    why: str


def persistent(saved_id: Any) -> Any:
    """What a persistent id in a torch pickle stands for: a storage, or (in old files) a class with its source."""
    kind, what, *rest = saved_id
    if kind == "module":
        return what
    key, _, _, *view = rest
    dtype = _STORAGES.get(what.name.rpartition(".")[2])
    if kind != "storage" or not isinstance(key, str) or dtype is None:
        return Unreadable(f"its storage is a {what.name}")
    return Storage(key, dtype, view[0][1] if view and view[0] else 0)


def call(name: str, args: tuple[Any, ...]) -> Any:
    """What a call in a torch pickle stands for."""
    match name:
        case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
            return _view(*args[:4])
        case "torch._utils._rebuild_tensor_v3":
            dtype = DTYPES.get(args[6].name)
            return _view(*args[:4], dtype=dtype) if dtype else Unreadable(f"dtype {args[6].name} is not read")
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
            return args[0]
        case "torch._tensor._rebuild_from_type_v2" if isinstance(args[0], Global):
            return call(args[0].name, args[2])
        case "torch.Size":
            return args[0]
        case "collections.OrderedDict" | "collections.defaultdict":
            items = (
                args[0] if args and isinstance(args[0], list) else ()
            )  # given at once by Python 2, put in later by 3
            return {key: value for key, value in items if isinstance(key, str)}
    if name.startswith(("torch._utils._rebuild", "torch.storage.", "torch.distributed.")) or name in _NUMPY_ARRAYS:
        return Unreadable(f"stored by {name}, not as plain elements")
    return NotImplemented


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *, dtype: torch.dtype | None = None) -> View | Unreadable:
    if not isinstance(storage, Storage):
        return storage if isinstance(storage, Unreadable) else Unreadable("it has no storage")
    return View(storage, dtype or storage.dtype, offset, shape, stride)


Locate = Callable[[str], tuple[int, int]]  # storage key -> where its bytes begin in the file, and how many they are


def contents_of(payload: Any, file: Bytes, locate: Locate) -> Contents:
    """The weights, the step and the numbers in an unpickled torch.save file."""
    if isinstance(payload, Leaf):
        raise no_weights(file.path, "holds one tensor without a name")
    top = _children(payload) or {}
    weights, skipped = model_part(top)
    found = {name: located(file, name, leaf, locate) for name, leaf in leaves(weights)}
    tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, Span)}
    if not tensors:
        raise no_weights(file.path, "holds no weights")
    _check_size(file, tensors.values())
    skipped |= {name: leaf.why for name, leaf in found.items() if isinstance(leaf, Unreadable)}
    said = {key: _number(file, value, locate) for key, value in top.items() if key not in tensors}
    trainer = _trainer(top)
    return Contents(
        trainer,
        tensors,
        step=count_among(said, STEP_KEYS),
        epoch=count_among(said, EPOCH_KEYS),
        metrics=numbers(said),
        skipped=skipped,
        attributes=("model", "net") if trainer == "lightning" else (),
    )


def _trainer(top: Mapping[str, Any]) -> str:
    if "pytorch-lightning_version" in top:
        return "lightning"
    return "nanogpt" if {"model_args", "iter_num"} <= top.keys() else "torch"


def model_part(top: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """The part of a checkpoint that is the model, and why the other parts are not given."""
    skipped: dict[str, str] = {}
    parts: dict[str, Any] = {}
    for key, value in top.items():
        if _is_optimiser(value) or ("." not in key and _TRAINING_STATE.search(key)):
            skipped[key] = "training state, never read"
        elif any(True for _ in leaves({key: value})):
            parts[key] = value
    nested = [key for key, value in parts.items() if not isinstance(value, Leaf)]
    loose = [key for key, value in parts.items() if getattr(value, "shape", ()) not in ((), (1,))]
    only = nested[0] if len(nested) == 1 and not loose else None
    chosen = next((key for key in _MODEL_KEYS if key in nested), only)
    if chosen is None:
        return parts, skipped
    others = {key: f"not part of {chosen!r}, which holds the model" for key in nested + loose if key != chosen}
    return parts[chosen], skipped | others


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor below `value` by its dotted name; each container is entered once, however many refer to it.

    A few bytes of a pickle can repeat a long key at every depth or before a million tensors, so names are limited, each
    and together.
    """
    total = 0
    for name, leaf in _below(value, "", set()):
        total += len(name)
        if total > LARGEST_NAMES:
            raise ValueError(f"the names of the tensors have more than {LARGEST_NAMES} characters")
        yield name, leaf


def _below(value: Any, prefix: str | None, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """`prefix` is None where it would be too long for a name; what is no tensor may lie there."""
    children = None if _is_optimiser(value) or id(value) in seen else _children(value)
    if children is None:
        return
    seen.add(id(value))
    for key, child in children.items():
        name = f"{prefix}{key}" if prefix is not None and len(prefix) + len(key) <= LONGEST_NAME else None
        if not isinstance(child, Leaf):
            yield from _below(child, None if name is None else f"{name}.", seen)
        elif name is not None:
            yield name, child
        else:
            raise ValueError(f"a tensor's name has more than {LONGEST_NAME} characters")


def _children(value: Any) -> Mapping[str, Any] | None:
    """What a state dict, a list or a pickled nn.Module holds, by name."""
    if isinstance(value, Unknown) and isinstance(value.state, dict) and "_parameters" in value.state:
        own, buffers, modules = (_children(value.state.get(key)) or {} for key in _MODULE_PARTS)
        passing = value.state.get("_non_persistent_buffers_set")
        passing = passing.args[0] if isinstance(passing, Unknown) and passing.args else ()
        saved = {name: buffer for name, buffer in buffers.items() if name not in passing}
        return {**own, **saved, **modules}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return {str(index): item for index, item in enumerate(value)}
    return None


def _is_optimiser(value: Any) -> bool:
    return isinstance(value, dict) and "param_groups" in value and "state" in value


def located(file: Bytes, name: str, leaf: View | Unreadable, locate: Locate) -> Span | Unreadable:
    """The view as bytes of the file, after checking that its storage really holds them."""
    if isinstance(leaf, Unreadable):
        return leaf
    shape = shape_of(file.path, name, leaf.shape)
    stride = counts(file.path, name, leaf.stride)
    start, offset = counts(file.path, name, (leaf.storage.start, leaf.offset))
    begin, length = locate(leaf.storage.key)
    skip = start * leaf.storage.dtype.itemsize + offset * leaf.dtype.itemsize
    span = Span(file, begin + skip, leaf.dtype, shape, None if _is_row_major(shape, stride) else stride)
    if skip + span.covered() > length:
        raise broken(file.path, f"tensor {name!r} reaches past its storage of {length} bytes", "the file is damaged")
    if prod(shape) * leaf.dtype.itemsize > length:  # two numbers can ask for all the memory there is
        return Unreadable(f"an expanded view that repeats {length} bytes to shape {list(shape)}")
    return span


def _check_size(file: Bytes, spans: Iterable[Span]) -> None:
    """Refuse thousands of views of the same bytes: a small file would count as a large model."""
    size = sum(prod(span.shape) * span.dtype.itemsize for span in set(spans))
    if size > MOST_VIEWS * file.size and size > file.size + LARGEST_EXCESS:
        what = f"its tensors overlap: together they have {size} bytes, the file has {file.size}"
        raise broken(file.path, what, "do not trust it")


def _is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = [*accumulate(reversed(shape[1:]), mul, initial=1)][::-1] if shape else []
    return all(n == 1 or has == wants for n, has, wants in zip(shape, stride, expected, strict=True))


def _number(file: Bytes, value: Any, locate: Locate) -> Any:
    """A number as it is, a tensor with one element as its element."""
    if isinstance(value, View) and value.shape in ((), (1,)):
        value = located(file, "a number", value, locate)
        return value.read().item() if isinstance(value, Span) else None
    return value if isinstance(value, int | float) else None
