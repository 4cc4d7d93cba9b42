"""A GPU that is not there: tensors that say they lie on cuda:0, so that a machine without one sees what a GPU refuses.

Memory and arithmetic are the host's. Refused are operands on two devices, `numpy()`, generators of another device and
host memory in a Triton kernel. What makes the host wait is counted, and an error where the sync debug mode says so. A
CUDA graph is written down without being run; a replay runs it in the same memory. Nothing is asynchronous: a wait that
is missing, or memory given out too early, goes unseen.
"""

from collections import Counter
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from triton.runtime.interpreter import GridExecutor

HOST, GPU = torch.device("cpu"), torch.device("cuda", 0)
FACTORIES = (
    "arange as_tensor empty empty_like empty_strided eye full full_like linspace ones ones_like rand rand_like randint "
    "randn randn_like randperm scalar_tensor tensor zeros zeros_like"
)
HOST_SCALARS = (
    "fill_",
    "masked_fill",
    "masked_fill_",
    "index_put",
    "index_put_",
)  # take one; so does what is pointwise
HOST_INDICES = ("index", "index_put", "index_put_", "_unsafe_index")
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
NO_LAUNCH = ("detach", "alias", "lift_fresh", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty")
original_to, original_launch, plainly = Tensor.to, GridExecutor.__call__, torch._C._DisableTorchDispatch


class GPUTensor(Tensor):
    """The host's memory under another name."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)
    is_cuda, is_cpu = property(lambda self: True), property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return gpu.operation(func, args, kwargs or {})

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    def tolist(self):
        return self.detach().cpu().tolist()

    def __format__(self, form):
        return format(self.detach().cpu(), form)

    def __repr__(self):
        return f"{self.detach().cpu()} on {GPU}"

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)


class Generator(torch.Generator):
    """Says where it is."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        if torch.device(device).type == "cuda":
            gpu.generators[made._cdata] = made
        return made

    device = property(lambda self: GPU if self._cdata in gpu.generators else HOST)


class Copy(torch.autograd.Function):
    """To the other side."""

    @staticmethod
    def forward(ctx, tensor, non_blocking):
        gpu.transfer(non_blocking)
        with plainly():
            there = tensor.detach().clone()
        return there if isinstance(tensor, GPUTensor) else on_gpu(lambda: there)

    @staticmethod
    def backward(ctx, gradient):
        return Copy.apply(gradient, False), None


class Graph:
    """Operations with the tensors that they read and wrote, and what these held before."""

    def __init__(self):
        self.steps, self.before = [], []

    def capture_begin(self, *_, **__):
        gpu.capture = self

    def capture_end(self):
        gpu.capture = None
        with torch.no_grad(), plainly():
            for tensor, before in reversed(self.before):
                tensor.copy_(before)

    def replay(self):
        gpu.launches["replay"] += 1
        with torch.no_grad(), plainly():
            for step, results in self.steps:
                for old, new in zip(results, tensors_in(step()), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Machine:
    """What it has done: `launches` by operation, `waits` of the host by what made it wait."""

    def __init__(self):
        self.launches, self.waits = Counter(), Counter()
        self.debug_mode, self.capture, self.generators = "default", None, {}

    def operation(self, func, args, kwargs):
        name, hosts = func._schema.name.split("::")[1], [x for x in tensors_in((args, kwargs)) if x.is_cpu]
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = tensors_in(
            [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        )
        if hosts and "copy" in name:
            self.transfer(given.get("non_blocking"))
        elif hosts:
            self._refuse_mixed(func, name, args, hosts, written)
        self.refuse_generator(kwargs.get("generator"), GPU)
        if name in HOST_INDICES:  # how many a mask selects has to be asked, unless they all become one number
            fills = "put" in name and args[2].is_cpu
            waits = not fills and any(x.dtype == torch.bool for x in tensors_in(args[1]))
        else:
            waits = WAITS & set(func.tags) or name.startswith("_linalg")
        if waits:
            self.wait(name)
        kwargs = kwargs | {"device": None} if "device" in kwargs else kwargs
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if is_view or torch.Tag.inplace_view in func.tags or name in NO_LAUNCH:
            return on_gpu(func, args, kwargs)
        return self.launch(name, func, args, kwargs, written)

    def launch(self, name, func, args, kwargs, written=()):
        """Run it; where a graph is being captured write it down, to be undone."""
        self.launches[name] += 1
        if not self.capture:
            return on_gpu(func, args, kwargs)
        with torch.no_grad(), plainly():
            self.capture.before += [(x.detach(), x.clone()) for x in written]
            now = tree_map_only(Tensor, Tensor.detach, (args, kwargs))  # with the shapes that they have now
            result = on_gpu(func, args, kwargs)
            self.capture.steps.append((partial(func, *now[0], **now[1]), [x.detach() for x in tensors_in(result)]))
        return result

    def launch_triton(self, grid, *args, **kwargs):
        operands = tensors_in((args, kwargs))
        if all(x.is_cpu for x in operands):
            return original_launch(grid, *args, **kwargs)
        if any(x.is_cpu for x in operands):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        return self.launch(grid.fn.__name__, original_launch, (grid, *args), kwargs, operands)

    def transfer(self, non_blocking):
        """Between the host, whose memory is taken to be pageable, and the GPU."""
        self.launches["copy"] += 1
        if not non_blocking or self.capture:
            self.wait("copy")

    def wait(self, reason):
        self.waits[reason] += 1
        if self.capture:
            raise RuntimeError(f"operation not permitted when stream is capturing ({reason})")
        if self.debug_mode == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation ({reason})")

    def _refuse_mixed(self, func, name, args, hosts, written):
        indices = tensors_in(args[1]) if name in HOST_INDICES and args[0].is_cuda else []
        scalars = torch.Tag.pointwise in func.tags or name in HOST_SCALARS
        for host in hosts:
            if any(host is x for x in indices):
                self.transfer(non_blocking=False)
            elif any(host is x for x in written) or host.ndim or not scalars:
                raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")

    def refuse_generator(self, generator, device):
        if generator is not None and (generator._cdata in self.generators) != (device.type == "cuda"):
            raise RuntimeError(f"Expected a '{device.type}' device type for generator")


gpu = Machine()


def tensors_in(values):
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def on_gpu(func, args=(), kwargs=None):
    """What a function gives; tensors that are new lie on the GPU."""
    known = {id(x) for x in tensors_in((args, kwargs))}
    with plainly():
        found = func(*args, **(kwargs or {}))
        return tree_map_only(Tensor, lambda x: x if id(x) in known else Tensor._make_subclass(GPUTensor, x), found)


def factory(original):
    """A function that makes tensors, where it is told to."""
    name = original.__name__

    def make(*args, device=None, pin_memory=False, requires_grad=False, generator=None, **kwargs):
        where = HOST if device is None else torch.device(device)
        gpu.refuse_generator(generator, where)
        kwargs |= {} if generator is None else {"generator": generator}
        if where.type != "cuda":
            made = original(*args, **kwargs, **({} if device is None else {"device": device}))
        elif name in ("tensor", "as_tensor"):
            made = original(*args, **kwargs).to(where)
        else:
            made = on_gpu(original, args, kwargs) if name in NO_LAUNCH else gpu.launch(name, original, args, kwargs)
        return made.requires_grad_() if requires_grad else made

    return make


def to(self, *args, copy=False, **kwargs):
    """`Tensor.to`."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    if device is not None and {device.type, self.device.type} == {"cpu", "cuda"}:
        self, copy = Copy.apply(self, non_blocking), False
    elsewhere = device is not None and device.type not in ("cpu", "cuda")
    form = {"memory_format": memory_format} if memory_format else {}
    return original_to(self, *([device] if elsewhere else []), dtype or self.dtype, copy=copy, **form)


def pretend(patch: pytest.MonkeyPatch) -> Machine:
    """The machine, which torch takes for a GPU until `patch` is undone."""
    gpu.__init__()
    stream = SimpleNamespace(synchronize=lambda: gpu.wait("stream"), record=lambda *_: None)
    stand_ins = {
        torch: {name: factory(getattr(torch, name)) for name in FACTORIES.split()} | {"Generator": Generator},
        torch.__future__: {"_swap_module_params_on_conversion": True},
        Tensor: {"to": to, "cpu": lambda self: self.to(HOST), "cuda": lambda self: self.to(GPU)},
        GridExecutor: {"__call__": lambda grid, *args, **kwargs: gpu.launch_triton(grid, *args, **kwargs)},
        torch.cuda: {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "get_device_properties": lambda _: SimpleNamespace(multi_processor_count=2, major=9),
            "_lazy_init": lambda: None,
            "get_sync_debug_mode": lambda: gpu.debug_mode,
            "set_sync_debug_mode": partial(setattr, gpu, "debug_mode"),
            "CUDAGraph": Graph,
            "synchronize": lambda: gpu.wait("synchronize"),
            "mem_get_info": lambda: (1, 1),
            "memory_reserved": lambda: 0,
            "MemPool": lambda: SimpleNamespace(id=0),
            "Stream": lambda *_: stream,
            "Event": lambda *_: stream,
            "stream": lambda _: nullcontext(),
        },
    }
    for owner, names in stand_ins.items():
        for name, value in names.items():
            patch.setattr(owner, name, value)
    return gpu
