"""The class of each exception; secrets are removed from messages."""

import errno

import pytest
import torch

from harness.core import BenchError, NotFinite, Unsupported
from harness.running import process
from harness.running.failures import (
    ArtifactFailed,
    StoreFailed,
    TimedOut,
    check_space,
    classify,
)
from results.storage.store import open_store


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


def test_a_full_disk_for_output_ends_the_run_and_one_that_is_said_to_be_does_not(
    tmp_path, monkeypatch
):
    store = open_store(tmp_path / "store", create=True)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(process, "output_folder", lambda: tmp_path)
    check_space(full, store)
    assert not list(tmp_path.glob("*.tmp"))

    monkeypatch.setattr(process, "output_folder", lambda: tmp_path / "gone")
    check_space(ValueError("a bug"), store)
    with pytest.raises(StoreFailed, match=r"folder .*/gone cannot be written to"):
        check_space(full, store)
