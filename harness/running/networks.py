"""Compressed networks that `run --keep-models` stores, each an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core import Model
from harness.planning.trial import Trial
from harness.running.failures import store_io
from harness.toolkit import saved_model
from results.storage import artifacts as shelf
from results.storage.store import Store

PREFIX = "network-"


def keep(
    store: Store, attempt: str, trial: Trial, model: Model, shape: dict[str, Any] | None
) -> str:
    """Store the network of an attempt.

    Args:
        store: The store of the attempt.
        attempt: Its id, which names the artifact: a second attempt may give another
            network, and each number belongs to the network that was measured.
        trial: Its trial.
        model: The model around the compressed network.
        shape: Shape of the training data; None for a pretrained model.

    Returns:
        The id of the artifact, for the column ``network``.

    Raises:
        StoreFailed: If the store cannot be written.
    """
    key = f"{PREFIX}{attempt}"
    origin = {
        "model": trial.model.name,
        "options": json.loads(trial.model.options),
        "revision": trial.model.revision,
        "shape": shape,
    }
    with store_io(), shelf.make(store, key, about=f"network of {trial}") as folder:
        saved_model.save(model, origin, folder)
    return key


def find(store: Store, key: str | None) -> Path | None:
    """The folder of a stored network.

    Args:
        store: The store that may have it.
        key: The column ``network`` of a trial's row.

    Returns:
        The folder; None if no network was kept, or if it was deleted or is damaged.
    """
    return None if key is None else shelf.find(store, key)
