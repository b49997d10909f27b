"""What depends on the device and on the dtype of a network."""

import contextlib
import mmap
import os
from collections.abc import Iterator

import pytest
import torch
from tiny_llm import config
from transformers import AutoModelForCausalLM

from harness.toolkit import devices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_that_is_cast_equals_the_one_that_transformers_loads(dtype, tmp_path):
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config("llama")).eval()
    net.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()

    made = devices.cast(net, dtype)

    buffers, expected = (dict(n.named_buffers()) for n in (made, loaded))
    assert {k: v.dtype for k, v in buffers.items()} == {
        k: v.dtype for k, v in expected.items()
    }
    ids = torch.arange(48)[None]
    with torch.inference_mode():
        assert torch.equal(made(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_stored_buffers_are_cast_and_computed_ones_are_not():
    net = torch.nn.BatchNorm1d(3)
    net.register_buffer("computed", torch.ones(3), persistent=False)
    devices.cast(net, torch.float16)
    assert net.running_mean.dtype == torch.float16
    assert net.weight.dtype == torch.float16
    assert net.computed.dtype == torch.float32
    assert net.num_batches_tracked.dtype == torch.int64


@contextlib.contextmanager
def resident(size: int) -> Iterator[None]:
    """Hold memory that goes back to the system, as freed tensors need not."""
    with mmap.mmap(-1, size) as held:
        for page in range(0, size, mmap.PAGESIZE):
            held[page] = 1
        yield


def test_the_peak_of_memory_starts_anew_and_sees_what_was_held():
    cpu = torch.device("cpu")
    devices.reset_peaks(cpu)
    before = devices.peak_memory()
    with resident(120_000_000):
        after = devices.peak_memory()

    assert before is not None
    assert after is not None
    assert after - before > 100e6
    devices.reset_peaks(cpu)
    assert (devices.peak_memory() or 0) < after - 100e6


def test_what_is_left_out_of_the_peaks_does_not_raise_them_and_hides_nothing():
    cpu = torch.device("cpu")
    devices.reset_peaks(cpu)
    with resident(120_000_000):
        pass
    before = devices.peak_memory()
    with devices.left_out(cpu), resident(240_000_000):
        pass

    assert before is not None
    # The kernel counts pages approximately.
    assert abs((devices.peak_memory() or 0) - before) < 20e6
    devices.reset_peaks(cpu)
    assert (devices.peak_memory() or 0) < before - 100e6


def test_threads_of_torch_are_those_that_were_given():
    before = devices.threads()
    devices.set_threads(1)

    assert devices.threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    devices.set_threads(before)
