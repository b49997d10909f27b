"""The class of each exception; secrets are removed from messages."""

import pytest
import torch

from harness.core import BenchError, NotFinite, Unsupported
from harness.running.failures import ArtifactFailed, TimedOut, classify


@pytest.mark.parametrize(
    ("error", "status", "error_class"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "oom"),
        (MemoryError(), "out_of_memory", "oom"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
            "oom",
        ),
        (NotFinite("loss is nan at step 3"), "failed", "nan"),
        (Unsupported("no matrix"), "unsupported", "unsupported"),
        (TimedOut("too long"), "timed_out", "timeout"),
        (BenchError("no data"), "failed", "setup"),
        (ConnectionResetError("gone"), "failed", "infra"),
        (ArtifactFailed("no checkpoint", "oom"), "out_of_memory", "oom"),
        (ZeroDivisionError("x"), "failed", "bug"),
    ],
)
def test_each_error_has_its_class(error, status, error_class):
    failure = classify(error)

    assert (failure.status, failure.error_class) == (status, error_class)
    assert failure.reason
