"""The address of a cluster as a user writes it."""

from __future__ import annotations

from harness.core import BenchError


def check_address(address: str) -> None:
    """Check the form of an address, before anything is started or stored.

    Args:
        address: What the option ``--address`` names.

    Raises:
        BenchError: If it is none of the forms that ``executor_for`` knows.
    """
    if address in ("local", "auto", "inline"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise BenchError(
            f"address {address!r} is not one of 'local', 'auto', 'inline', HOST:PORT, "
            "ray://HOST:PORT"
        )
