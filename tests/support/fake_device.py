"""A device that any machine has: its tensors are on the host, its bytes are counted.

A tensor of the device is a wrapper around one on the CPU. Its ``device`` is ``lazy:N``,
a kind that torch knows and that this project does not use, so that code which forgets
to move a tensor fails as it would on a GPU. What a kernel allocates while it runs
(cuBLAS, cuSOLVER) is not counted, and neither is what CUDA itself takes.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, ValuesView
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

BLOCK = 512  # bytes: CUDA's allocator of torch rounds every tensor up to multiples
# As on CUDA: these read indices or values from another device.
_MIXED = {"copy_", "index", "index_put_", "_index_put_impl_", "_unsafe_index"}
# ``checkpoint`` looks for the module of a device, and needs nothing of this one.
torch.lazy = SimpleNamespace()  # type: ignore[attr-defined]
_READ = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}


class Wrapped(Tensor):
    """A tensor of a fake device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "Wrapped":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.inner = inner
        return made

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        self.inner = value.inner  # torch swaps what it knows of a tensor, not this
        Tensor.data.__set__(self, value)

    def untyped_storage(self) -> torch.UntypedStorage:
        """The bytes themselves, which the host can read."""
        return self.inner.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = self.detach().clone()
            if isinstance(self, nn.Parameter):
                copied = nn.Parameter(copied)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a fake device outside of `with FakeDevices()`")


class FakeDevices(TorchDispatchMode):
    """Devices ``lazy:0`` to ``lazy:N-1``, while the context is open.

    Args:
        count: Number of devices.
        limit: Bytes of each device; None is unlimited.
    """

    def __init__(self, count: int = 1, limit: int | None = None) -> None:
        super().__init__()
        self.devices = [torch.device("lazy", i) for i in range(count)]
        self.limit = limit
        self.used: Counter[torch.device] = Counter()
        self.peak: Counter[torch.device] = Counter()
        self.reads = 0  # copies to the host, each of which waits for the device
        self._alive: dict[int, Any] = {}
        self._before: list[bool] = []

    def __enter__(self) -> "FakeDevices":
        # ``torch.tensor(..., device=...)`` makes it on the host, then moves it by us.
        self._before.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        torch._C._set_only_lift_cpu_tensors(self._before.pop())

    def reset_peak(self) -> None:
        """Measure the peak from here on."""
        self.peak = Counter(self.used)

    def move(self, net: nn.Module, device: torch.device) -> nn.Module:
        """Move a network in place; tied weights stay tied, as they do with CUDA."""
        moved: dict[int, Any] = {}
        for module in net.modules():
            for kind in (module._parameters, module._buffers):
                for name, value in kind.items():
                    if value is None:
                        continue
                    if id(value) not in moved:
                        new = value.detach().to(device)
                        if isinstance(value, nn.Parameter):
                            new = nn.Parameter(new, requires_grad=value.requires_grad)
                        moved[id(value)] = (new, value)
                    kind[name] = moved[id(value)][0]
        return net

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _is_made_of_others(func):  # a tensor of inference mode: no autograd does it
            with self:
                return func.decompose(*args, **kwargs)
        name, writes = _about(func)
        values = list(_leaves((args, kwargs.values())))
        indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        target = self._device(name, values, indices)
        made = func(
            *(_plain(v) for v in args), **{k: _plain(v) for k, v in kwargs.items()}
        )
        if name == "set_" and target is not None:  # another storage and another shape
            return self._wrap(made, target)
        if writes is not None:
            given = [
                kwargs.get(n, args[i] if i < len(args) else None) for i, n in writes
            ]
            return given[0] if len(given) == 1 else tuple(given)
        return made if target is None else self._wrapped(made, target)

    def _device(
        self, name: str, values: list[Any], indices: Iterable[Any] = ()
    ) -> torch.device | None:
        """Where the result of an operator is; None for the host."""
        tensors = [v for v in values if isinstance(v, Tensor)]
        found = {t.device for t in tensors if isinstance(t, Wrapped)}
        if name not in _MIXED:
            host = any(not isinstance(t, Wrapped) and t.ndim for t in tensors)
            if len(found) > 1 or (found and host):
                where = ", ".join(sorted({str(t.device) for t in tensors}))
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least "
                    f"two devices, {where}! (operator {name})"
                )
        asked = next((v for v in values if isinstance(v, torch.device)), None)
        target = asked or (tensors[0].device if tensors else torch.device("cpu"))
        if asked is None and name not in _MIXED and found:
            target = next(iter(found))  # beside numbers of the host
        self.reads += bool(found) and (target.type == "cpu" or name in _READ)
        if found and name in _MIXED:  # a mask as an index is turned into positions
            self.reads += sum(getattr(v, "dtype", 0) == torch.bool for v in indices)
        return None if target.type == "cpu" else target

    def _wrapped(self, made: Any, device: torch.device) -> Any:
        if isinstance(made, list | tuple):
            return type(made)(self._wrapped(one, device) for one in made)
        return self._wrap(made, device)

    def _wrap(self, value: Any, device: torch.device) -> Any:
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            if self.limit is not None and self.used[device] + size > self.limit:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size} bytes on {device}, "
                    f"which has {self.limit - self.used[device]} bytes free"
                )
            self.used[device] += size
            self.peak[device] = max(self.peak[device], self.used[device])

            def freed(_: object) -> None:
                del self._alive[key]
                self.used[device] -= size

            self._alive[key] = weakref.ref(storage, freed)
        with torch.inference_mode(False):  # views of it belong to normal tensors
            return Wrapped(value, device)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple | ValuesView):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _plain(value: Any) -> Any:
    """The argument of an operator as the host knows it."""
    if isinstance(value, Wrapped):
        return value.inner
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


@cache
def _is_made_of_others(func: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


@cache
def _about(func: Any) -> tuple[str, list[tuple[int, str]] | None]:
    """Name of an operator; place and name of the arguments that it returns changed."""
    schema = func._schema
    name = func.__name__.split(".")[0]
    if not schema.returns or not getattr(schema.returns[0].alias_info, "is_write", 0):
        return name, None
    return name, [
        (index, one.name)
        for index, one in enumerate(schema.arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
