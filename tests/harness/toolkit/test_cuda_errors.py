"""Texts of real CUDA errors: memory that ran out, and contexts that are unusable.

The texts are those of public reports; each is the message that torch prints.
"""

import pytest
import torch

from harness.running.failures import classify
from harness.toolkit import devices

NO_MEMORY = [
    # QwenLM/Qwen3 issue 873: torch.nn.functional.linear on a full device.
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling "
    "`cusolverDnCreate(handle)`",
    # pytorch/pytorch issue 20123.
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    "79.10 GiB of which 1.20 GiB is free.",
]
STICKY = [
    # 3dlg-hcvc/multi3drefer issue 14.
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so "
    "the stacktrace below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1.",
    "CUDA error: device-side assert triggered\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
]
OTHER = [
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`",
    "CUDA error: no kernel image is available for execution on the device",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "Expected all tensors to be on the same device, but found at least two devices, "
    "cuda:0 and cpu!",
]


@pytest.mark.parametrize("text", NO_MEMORY)
def test_memory_that_ran_out_on_a_device_is_out_of_memory(text):
    failure = classify(RuntimeError(text))

    assert failure.error_class == "oom"
    assert failure.status == "out_of_memory"
    assert not devices.poisoned(failure.reason)


@pytest.mark.parametrize("text", STICKY)
def test_a_sticky_error_is_a_bug_after_which_the_process_is_unusable(text):
    failure = classify(torch.AcceleratorError(text))

    assert failure.error_class == "bug"
    assert devices.poisoned(failure.reason)


@pytest.mark.parametrize("text", OTHER)
def test_other_errors_of_a_device_are_bugs_that_leave_the_process_usable(text):
    failure = classify(RuntimeError(text))

    assert failure.error_class == "bug"
    assert not devices.poisoned(failure.reason)


def test_a_processor_has_no_facts_of_an_accelerator(monkeypatch):
    monkeypatch.setenv(devices.ONLY, "cpu")
    devices.accelerator.cache_clear()

    assert devices.accelerator() is None
    assert devices.precision() is None


def test_the_switches_of_a_gpu_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(devices, "pick", lambda: torch.device("cuda"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = devices.precision()
    finally:
        torch.set_float32_matmul_precision(before)

    assert found == {
        "matmul": "high",
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": False,
        "deterministic": False,
    }
