"""The Hugging Face hub: without a network, nothing waits for it."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from functools import cache
from urllib.parse import urlsplit

# Any of these set means that the user decided.
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_LOG = logging.getLogger(__name__)
_SECONDS = 3.0  # that a name server may take


@cache
def settle() -> None:
    """Work from the caches of this machine if the hub's name does not resolve.

    The hub's clients try each file six times, which takes half a minute, before they
    look into their caches. Call this before one of them is imported. It decides once
    for this process and its children; variables that are set, and a proxy, which
    resolves names itself, are left alone.
    """
    if any(os.environ.get(name) for name in (*OFFLINE, *_PROXIES)) or _resolves():
        return
    _LOG.warning("no network: only models and data on this machine are used")
    os.environ["HF_HUB_OFFLINE"] = "1"
    # They read the variable when they are imported, which may have been before.
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:
            sys.modules[module].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _resolves() -> bool:
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    found: list[bool] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            return
        found.append(True)

    # A name server that does not answer holds the call for longer than anyone waits.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return bool(found)
