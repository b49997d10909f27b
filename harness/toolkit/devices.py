"""Every question about a device goes through here; a test puts a fake one in place."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import threadpoolctl
import torch
from torch import nn

from harness.core import BenchError
from harness.toolkit import host_memory
from results.storage.leases import NODE

ONLY = "SHRINKGRID_DEVICE"  # ``cpu`` in a worker that was given no device
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What torch and CUDA's libraries write when memory is short. The libraries report their
# own failed allocations by their status alone.
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# Errors after which no call of CUDA succeeds in the same process (the descriptions of
# cudaError in NVIDIA's runtime API say so one by one).
_STICKY = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "misaligned address",
    "an illegal instruction was encountered",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
)
# Compute capabilities whose throughput in float64 is half of that in float32 (the table
# of arithmetic instructions in NVIDIA's CUDA C++ programming guide). All others have a
# thirty-second or a sixty-fourth.
_FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
_GIVEN = f"SHRINKGRID_THREADS_{os.getpid()}"  # set once in this process; not inherited


def pick() -> torch.device:
    """The device of this process: the GPU that Ray gave it, else the CPU."""
    if os.environ.get(ONLY) == "cpu":  # nobody gave it one, though it may see some
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def several(count: int) -> list[torch.device]:
    """The devices of this process, of which Ray gave it as many as it asked for.

    Args:
        count: How many, at least 1.

    Returns:
        ``count`` devices; the first one is that of ``pick``.

    Raises:
        BenchError: If this process sees fewer.
    """
    found = 0 if pick().type == "cpu" else torch.cuda.device_count()
    if found < count:
        raise BenchError(
            f"`gpus: {count}` was asked for, and this process sees {found} of them: "
            "lower `gpus` under `resources`, or run on a cluster with such a node"
        )
    return [torch.device("cuda", i) for i in range(count)]


def name(device: torch.device) -> str:
    """The name of the GPU as its driver reports it, or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return _processor()


@cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def node() -> str | None:
    """Ray's id of the node that this process works on; None outside Ray."""
    return os.environ.get(NODE)


def slow_float64(device: torch.device) -> bool:
    """Whether a device computes in float64 at less than half the speed of float32."""
    if device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) not in _FAST_FLOAT64


def synchronize(device: torch.device) -> None:
    """Wait until all work on the device has ended; on a CPU it has ended already."""
    if device.type == "cuda":
        for one in _in_use():
            torch.cuda.synchronize(one)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on an accelerator now; None on a CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0])


def free() -> tuple[int | None, int, int]:
    """Free bytes of the device and of the host, and what this process holds already."""
    held = psutil.Process().memory_info().rss
    return free_bytes(pick()), psutil.virtual_memory().available, held


def installed() -> list[tuple[str, int]]:
    """Name and memory of each accelerator that this process sees."""
    if not torch.cuda.is_available():
        return []
    found = [
        torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())
    ]
    return [(str(one.name), int(one.total_memory)) for one in found]


def set_threads(count: int) -> None:
    """Let torch and BLAS use ``count`` threads in this process.

    BLAS reads the environment once, when it is loaded; later only its own interface
    reaches it, which threadpoolctl knows.
    """
    wanted = max(1, count)
    torch.set_num_threads(wanted)
    # The name of the variable has the process id: a child inherits the environment, but
    # not what this process set in its own BLAS.
    if os.environ.get(_GIVEN) == str(wanted):  # the search takes 5 ms, every bundle
        return
    for name in (*_THREADS, _GIVEN):
        os.environ[name] = str(wanted)
    threadpoolctl.ThreadpoolController().limit(limits=wanted)


def threads() -> int:
    """How many threads torch uses."""
    return torch.get_num_threads()


# Peaks before the last ``left_out``: of resident memory, and of that of a device.
_earlier: list[int] = [0, 0]


def reset_peaks(device: torch.device) -> None:
    """Start a new measurement of peak memory."""
    _earlier[:] = 0, 0
    _restart(device)


@contextlib.contextmanager
def left_out(device: torch.device) -> Iterator[None]:
    """Leave what the body needs out of the peaks, such as a file that it writes.

    Args:
        device: As for ``reset_peaks``.
    """
    _earlier[:] = peak_memory() or 0, peak_device(device) or 0
    try:
        yield
    finally:
        _restart(device)


def _restart(device: torch.device) -> None:
    if device.type == "cuda":
        for one in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(one)
    # Linux keeps the peak of resident memory for a process's whole life; 5 resets it.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Peak resident bytes of this process since ``reset_peaks``; None if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            # "High water mark" of resident memory, in KiB.
            if line.startswith("VmHWM:"):
                return max(int(line.split()[1]) * 1024, _earlier[0])
    return None


def peak_device(device: torch.device) -> int | None:
    """Peak allocated bytes since ``reset_peaks``; None on a CPU.

    Args:
        device: The device of this process; of several, the fullest one counts.

    Returns:
        Bytes.
    """
    if device.type != "cuda":
        return None
    every = range(torch.cuda.device_count())
    now = max(int(torch.cuda.max_memory_allocated(one)) for one in every)
    return max(now, _earlier[1])


def _in_use() -> list[int]:
    """The devices on which this process has tensors; asking the others costs memory."""
    every = range(torch.cuda.device_count())
    return [one for one in every if torch.cuda.memory_allocated(one)]


def cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a network's parameters and stored buffers to a dtype, in place.

    Buffers that no checkpoint stores keep their dtype. They are computed, such as the
    frequencies of rotary position embeddings: rounded to bfloat16 they are wrong by up
    to 0.2 %, which is four radians at position 2,048. transformers computes them in
    float32 whatever the dtype of the weights.

    Args:
        net: Network whose weights are changed in place.
        dtype: Floating-point type to cast to.

    Returns:
        The same network.
    """
    # Buffers that the state dict leaves out. They are noted before ``net.to`` and put
    # back after it.
    computed = [
        (module, name, module._buffers[name])
        for module in net.modules()
        for name in module._non_persistent_buffers_set
    ]
    host = host_memory.of(net)
    if host is not None:  # the converted weights go to files one by one
        host_memory.hold(net, host, dtype)
    net.to(dtype)
    for module, name, value in computed:
        module._buffers[name] = value
    return net


def release(device: torch.device) -> None:
    """Free the memory that a finished or failed trial used."""
    # A network may be part of a reference cycle (through hooks or an exception), which
    # only the collector frees. After that CUDA's cache can be returned.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the host or a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(text in said for text in _NO_MEMORY)


def poisoned(reason: str) -> bool:
    """Whether an error ends all use of CUDA in the process that raised it.

    CUDA reports such an error again at every later call.

    Args:
        reason: Text of the error.

    Returns:
        True for the errors that CUDA calls sticky.
    """
    return "CUDA" in reason and any(text in reason for text in _STICKY)


@cache
def accelerator() -> dict[str, object] | None:
    """What of CUDA can change a number or its speed, beside the device's name.

    Returns:
        Versions of CUDA and cuDNN (as torch was built with and loaded), the driver's,
        the number of visible devices and their names, the compute capability; None on
        a processor.
    """
    if pick().type != "cuda":
        return None
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
        "devices": [name for name, _ in installed()],
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
    }


def precision() -> dict[str, object] | None:
    """The switches of torch that trade digits for speed; None on a processor."""
    if pick().type != "cuda":
        return None
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _driver() -> str | None:
    with contextlib.suppress(OSError, IndexError):
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
        return first.partition("Kernel Module")[2].split()[0]
    return None
