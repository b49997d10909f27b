"""`serve`: shows a store in a browser while grids run."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

import click

from harness.cli._common import on_store

if TYPE_CHECKING:
    from results.storage.store import Store


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to use.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8365,
    show_default=True,
    help="Port to use; 0 takes a free one.",
)
@click.option(
    "--token",
    envvar="SHRINKGRID_TOKEN",
    help="What a browser must give (or set SHRINKGRID_TOKEN). Other addresses than "
    "127.0.0.1 need one; it is made and printed if you give none.",
)
@on_store
def serve(store: Store, host: str, port: int, token: str | None) -> None:
    """Show the store as a web page that updates while grids run.

    The page is that of `shrinkgrid report`. It only reads the store, which may be
    on another machine or in a bucket. Stop it with Ctrl-C.
    """
    from results.boards import server
    from results.errors import StoreError

    if host not in server.LOOPBACK and not token:
        token = secrets.token_urlsafe(16)
    port = _free(host, port)
    shown = f"[{host}]" if ":" in host else host
    query = f"?token={token}" if token else ""
    click.echo(f"serving {store.uri} at http://{shown}:{port}/{query}", err=True)
    try:
        server.serve(store, host=host, port=port, token=token or "")
    except OSError as why:
        raise StoreError(f"cannot listen at {host}:{port}: {why}") from why


def _free(host: str, port: int) -> int:
    """Return the port, or a free one for 0; an error if another program uses it."""
    from results.errors import StoreError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as why:
            raise StoreError(
                f"cannot listen at {host}:{port}: {why.strerror or why}; choose "
                "another with --port (0 takes a free one)"
            ) from why
        return int(probe.getsockname()[1])
