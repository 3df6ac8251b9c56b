"""A second device for machines that have one: tensors that live "elsewhere" refuse to mix with those of the CPU.

    with elsewhere() as device:
        model = model.to(device)            # as model.to("cuda") would
        posterior = infer(model, "exact")   # raises MixedDevices where a tensor of the CPU meets one of the model
        values = posterior.values.cpu()

The device calls itself "meta", a device that every build of torch has. Its tensors are `Elsewhere`, a wrapper around a
tensor of the CPU which does the work; everything below autograd passes through `__torch_dispatch__`, so views,
operations in place, `out=` and gradients are those of torch. While the context is open, what is made on the device
(`torch.zeros(..., device=x.device)`, `x.new_zeros(...)`, `x.to(device)`) is `Elsewhere` too.

As on CUDA, a tensor of the CPU without axes takes part in elementwise operations, `.tolist()` and `.item()` copy, and
`.numpy()` is refused. Stricter than CUDA: a tensor of the CPU may not be the index of one that lives elsewhere. Sparse
layouts are refused. Kernels that do not go through torch's dispatcher (compiled code, extensions) are not seen.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DEVICE", "Elsewhere", "MixedDevices", "elsewhere"]

DEVICE = torch.device("meta")

# What takes its tensors from two places, or brings them from one to the other.
MOVES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
# Operations of many tensors, in which one without axes is no scalar.
STRICT = {"aten::cat", "aten::stack", "aten::index_add", "aten::scatter_add", "aten::gather", "aten::index_select"}


class MixedDevices(RuntimeError):
    """Tensors of two devices met in one operation."""


class Elsewhere(torch.Tensor):
    """A tensor that says it lives on `DEVICE`; `inner` is the tensor of the CPU that does its work."""

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        if inner.layout != torch.strided:
            raise NotImplementedError(f"a tensor of layout {inner.layout} cannot live elsewhere in these tests")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )

    def __init__(self, inner, requires_grad=False):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def __repr__(self):
        return f"Elsewhere({self.inner!r})"

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *, force=False):
        if force:
            return self.inner.detach().numpy()
        raise TypeError("a tensor that lives elsewhere has no numpy(); copy it with .cpu() first")

    def __array__(self, dtype=None, copy=None):
        raise TypeError("a tensor that lives elsewhere is no array; copy it with .cpu() first")


class Mode(TorchDispatchMode):
    """Makes what is asked for on `DEVICE`, also where no tensor takes part."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # or torch wraps what follows, to hide it from a compiler that nobody asks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class FromData(TorchFunctionMode):
    """Makes tensors of numbers: for the meta device torch would drop the numbers before anything is dispatched."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in (torch.tensor, torch.as_tensor, torch.asarray) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        if torch.device(kwargs["device"]) != DEVICE:
            return func(*args, **kwargs)
        if args and isinstance(args[0], torch.Tensor):
            return args[0].to(DEVICE, kwargs.get("dtype"))
        return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)


@contextlib.contextmanager
def elsewhere():
    """While open there is a second device, which it returns."""
    with Mode(), FromData():
        yield DEVICE


def dispatch(func, args, kwargs):
    name = func.name().split(".")[0]
    tensors = []

    def take(leaf):
        tensors.append(leaf)
        return inside(leaf)

    inner_args, inner_kwargs = mapped(args, take), mapped(kwargs, take)
    away = [leaf for leaf in tensors if isinstance(leaf, Elsewhere)]
    lands = target(kwargs, away)
    if away and name not in MOVES:
        free = 0 if name not in STRICT else -1
        strange = [leaf for leaf in tensors if not isinstance(leaf, Elsewhere) and leaf.dim() > free]
        if strange:
            shapes = [list(leaf.shape) for leaf in away]
            raise MixedDevices(
                f"{func.name()} was given a {strange[0].device} tensor of shape {list(strange[0].shape)} beside "
                f"tensors of shapes {shapes} that live elsewhere"
            )
    owners = {id(leaf.inner): leaf for leaf in away}
    if inner_kwargs.get("device") == DEVICE:
        inner_kwargs["device"] = torch.device("cpu")
    return mapped(func(*inner_args, **inner_kwargs), lambda leaf: settle(leaf, owners, lands))


def mapped(value, change):
    """Arguments or results of an operation with every tensor changed; several times as fast as torch's trees."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)([mapped(part, change) for part in value])
    return {name: mapped(part, change) for name, part in value.items()} if type(value) is dict else value


def inside(leaf):
    return leaf.inner if isinstance(leaf, Elsewhere) else leaf


def target(kwargs, away):
    """Whether the results live elsewhere."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]) == DEVICE
    return bool(away)


def settle(leaf, owners, lands):
    if id(leaf) in owners:  # done in place, or into out=
        owner = owners[id(leaf)]
        assert owner.shape == leaf.shape, "an operation resized its output"
        return owner
    return Elsewhere(leaf) if lands else leaf
