"""Settings of torch that a trial may change; reading them takes microseconds."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import library, overrides
from torch.nn.modules import module as hooks
from torch.utils import _python_dispatch as dispatch
from torch.utils._device import DeviceContext

from harness.running.setting import Setting, attribute

_HOOKS = [n for n, v in vars(hooks).items() if n.startswith("_global_") and "hook" in n]
_DENORMAL = 1e-310
_FOLDER = str(Path(torch.__file__).parent)
# Namespaces of operators that all networks use.
_PREFIXES = ("aten/", "prim/", "prims/")
_C = ctypes.CDLL(None)  # the C library, whose rounding mode every operation obeys
# Attributes below ``torch.backends``. The first one that says whether float32 products
# may be computed with fewer bits is the default of the others.
_SWITCHES = (
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.benchmark_limit"),
    *("cudnn.deterministic", "mkldnn.enabled", "mkldnn.deterministic"),
    *("opt_einsum.enabled", "opt_einsum.strategy", "quantized.engine"),
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_accumulation",
    *("fp32_precision", "cuda.matmul.fp32_precision", "cudnn.fp32_precision"),
    *("cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.fp32_precision", "mkldnn.matmul.fp32_precision"),
    *("mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
)
# Kernels that torch registered itself, when it was imported or first used.
_known = set(library._impls)
_guards: list[Any] = []  # that hold torch's inference mode where it was put back


def settings() -> Iterator[Setting]:
    """Yield every setting, in the order in which they are put back."""
    yield from _modes()
    yield from _numbers()
    yield from _devices()


def _modes() -> Iterator[Setting]:
    # First: a mode that was entered and never left changes every function of torch.
    for name, owner, stack in (
        ("modes of functions", overrides, overrides._get_current_function_mode_stack),
        ("modes of operators", dispatch, dispatch._get_current_dispatch_mode_stack),
    ):
        write = _leave(stack, owner._pop_mode, owner._push_mode)
        yield Setting(name, _entered(stack), write)
    yield Setting("operators of torch", _overridden, _remove_overrides)
    # Before the grad mode, which it changes too.
    yield Setting("inference mode", torch.is_inference_mode_enabled, _infer)
    yield Setting("hooks of saved tensors", _pack_hooks, _set_pack_hooks)
    yield Setting("hooks of all modules", _global_hooks, _set_global_hooks)


def _numbers() -> Iterator[Setting]:
    one = Setting
    yield one("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield one("default device", _default_device, torch.set_default_device)
    yield one("grad mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield one("threads", torch.get_num_threads, torch.set_num_threads)
    yield one("denormals", _flushes_denormals, torch.set_flush_denormal)
    yield one("rounding", _C.fegetround, _C.fesetround)
    yield one(
        "determinism",
        _deterministic,
        lambda v: torch.use_deterministic_algorithms(v[0], warn_only=v[1]),
    )
    yield one(
        "matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    )
    for kind in ("cpu", "cuda"):
        yield _of_device(kind, "enabled", torch.is_autocast_enabled)
        yield _of_device(kind, "dtype", torch.get_autocast_dtype)
    yield one(
        "cache of autocast",
        torch.is_autocast_cache_enabled,
        torch.set_autocast_cache_enabled,
    )
    yield one(
        "anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly
    )
    yield one(
        "threads of autograd",
        torch._C._is_multithreading_enabled,
        torch._C._set_multithreading_enabled,
    )


def _devices() -> Iterator[Setting]:
    one, cuda = Setting, torch.backends.cuda
    for path in _SWITCHES:
        *parts, name = path.split(".")
        owner = torch.backends
        for part in parts:
            owner = getattr(owner, part)
        yield attribute(f"torch.backends.{path}", owner, name)
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        enabled = getattr(cuda, f"{name}_sdp_enabled")
        yield one(f"attention by {name}", enabled, getattr(cuda, f"enable_{name}_sdp"))
    mha = torch.backends.mha
    yield one("fast path", mha.get_fastpath_enabled, mha.set_fastpath_enabled)
    yield one("NNPACK", torch._C._get_nnpack_enabled, torch._C._set_nnpack_enabled)


def _of_device(kind: str, what: str, read: Callable[[str], Any]) -> Setting:
    write = getattr(torch, f"set_autocast_{what}")
    return Setting(
        f"autocast of {kind} ({what})", lambda: read(kind), lambda v: write(kind, v)
    )


def _entered(stack: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    # That of a default device is put back with the device.
    return lambda: [mode for mode in stack() if not isinstance(mode, DeviceContext)]


def _leave(
    stack: Callable[[], list[Any]], pop: Callable[[], Any], push: Callable[[Any], Any]
) -> Callable[[list[Any]], None]:
    def write(before: list[Any]) -> None:
        kept = [m for m in stack() if m in before or isinstance(m, DeviceContext)]
        for _ in range(len(stack())):
            pop()
        for mode in kept:
            push(mode)

    return write


def _overridden() -> frozenset[str]:
    """The operators of torch whose kernel is of another package."""
    if len(library._impls) == len(_known):  # the names are many, and rarely grow
        return frozenset()
    found = set()
    for key in library._impls - _known:
        if key.startswith(_PREFIXES) and _is_foreign(key):
            found.add(key)
        else:
            _known.add(key)
    return frozenset(found)


def _remove_overrides(before: frozenset[str]) -> None:
    added = _overridden() - before
    # Each ``Library`` has a finalizer that unregisters its kernels; torch keeps no
    # other list of them.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        alive = finalizer.peek()
        own = alive[0] if alive is not None else None
        if isinstance(own, library.Library) and own._op_impls & added:
            finalizer()


def _is_foreign(key: str) -> bool:
    """Whether a kernel is of another package: torch adds some of its own when used."""
    namespace, name, dispatch_key = key.split("/")
    lines = torch._C._dispatch_dump(f"{namespace}::{name}").splitlines()
    # No key: for a composite of other operators, which has a line of its own.
    named = f"{dispatch_key or 'CompositeImplicitAutograd'}: registered at "
    here = [line for line in lines if line.startswith(named)]
    return not any(line.startswith(f"{named}{_FOLDER}") for line in here)


def _infer(mode: bool) -> None:
    guard = torch._C._InferenceMode(mode)
    guard.__enter__()
    _guards.append(guard)  # its end would bring the other mode back


def _pack_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


def _set_pack_hooks(before: Any) -> None:
    own = torch._C._autograd
    for _ in range(1000):  # each was entered and never left
        if _pack_hooks() in (before, None):
            break
        own._pop_saved_tensors_default_hooks()
    if before is not None and _pack_hooks() is None:
        own._push_saved_tensors_default_hooks(*before)


def _global_hooks() -> dict[str, Any]:
    found = {name: getattr(hooks, name) for name in _HOOKS}
    return {n: dict(v) if isinstance(v, dict) else v for n, v in found.items()}


def _set_global_hooks(values: dict[str, Any]) -> None:
    for name, value in values.items():
        now = getattr(hooks, name)
        if isinstance(value, dict):
            # The same dictionary object: torch's handles to remove a hook refer to it.
            now.clear()
            now.update(value)
        else:
            setattr(hooks, name, value)


def _default_device() -> str | None:
    device = torch.get_default_device()
    # None is torch's own value for "no default"; setting ``cpu`` would put a function
    # mode around every call.
    return None if device == torch.device("cpu") else str(device)


# A denormal number times one is zero where the processor flushes them; torch has no
# function that tells. Python's own numbers go through the same unit as torch's.
def _flushes_denormals() -> bool:
    return _DENORMAL * 1.0 == 0


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
