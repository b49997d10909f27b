"""Devices by name, and clusters as a user writes them."""

import re

import pytest

from harness.core import BenchError
from harness.scheduling.hardware import CPU, Device, parse


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8xFOO", "no device called 'FOO'"),
        ("8xH10", "Did you mean 'H100'?"),
        ("0xH100", "has 0 devices; write a count from 1"),
        ("h100", "is not a valid cluster; write COUNTxDEVICE, like 8xH100"),
        ("8 of H100", "is not a valid cluster"),
        ("", "is not a valid cluster"),
        ("99999999999xH100", "write a count from 1 to 100000"),
    ],
)
def test_an_invalid_cluster_is_refused_with_the_reason(text, reason):
    with pytest.raises(BenchError, match=re.escape(reason)):
        parse(text)


def test_a_processor_with_four_threads_is_twice_as_fast_as_one():
    assert CPU.relative_speed(4) == pytest.approx(2 * CPU.relative_speed(1))
    assert Device(name="x").relative_speed(4) == Device(name="x").relative_speed(1)
