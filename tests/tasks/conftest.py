import json

import pytest

from harness.registry import resolve


@pytest.fixture
def own_caches(tmp_path, monkeypatch):
    """Caches of this test, and no network."""
    # Imported here: they take seconds, and few files of this folder need them.
    import datasets
    import huggingface_hub.constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def task(tmp_path, own_caches):
    """Build a task of lm-eval from the text of its file, over texts of one line."""

    def build(text, *, texts=("cd",), more="", **options):
        data = tmp_path / "data.jsonl"
        data.write_text("\n".join(json.dumps({"text": one}) for one in texts))
        path = tmp_path / "task.yaml"
        path.write_text(text.format(data=data, more=more))
        plugin, implied = resolve("task", str(path))
        return plugin.build(implied | options)

    return build
