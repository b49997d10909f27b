import hashlib
import shutil

import pytest

from harness.core import BenchError
from harness.toolkit import texts


@pytest.fixture
def wikitext(shared_data, tmp_path_factory, monkeypatch):
    """A private copy: `datasets` writes lock files beside what it reads."""
    copy = tmp_path_factory.mktemp("hf")
    name = "Salesforce___wikitext"
    shutil.copytree(shared_data / "hf_datasets" / name, copy / name)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(copy))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def test_the_manual_inside_python_is_a_text_of_many_pages():
    text = texts.read("pydoc")
    assert "yield" in text
    assert len(text) > 300_000
    assert texts.read("pydoc") == text


def test_a_file_is_a_text_and_its_content_is_its_fingerprint(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hällo", encoding="utf-8")
    digest = hashlib.sha256("hällo".encode()).hexdigest()

    assert texts.read(str(path)) == "hällo"
    assert texts.fingerprint(str(path)) == f"sha256:{digest[:16]}"


def test_an_unknown_text_offers_the_nearest_name():
    with pytest.raises(BenchError, match="Did you mean 'wikitext2-test'"):
        texts.read("wikitext2-tset")


def test_a_file_of_another_encoding_says_so(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("hällo".encode("latin-1"))
    with pytest.raises(BenchError, match="not UTF-8"):
        texts.read(str(path))


def test_a_text_that_cannot_be_had_offline_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match="shrinkgrid prepare"):
        texts.read("ptb-test")


@pytest.mark.usefixtures("wikitext")
def test_wikitext_has_its_published_number_of_rows_and_joins():
    # 4,358 rows joined by blank lines; the raw test split begins with this heading.
    text = texts.read("wikitext2-test")
    assert text.startswith("\n\n = Robert Boulter = \n")
    assert "<unk>" in texts.read("wikitext2-validation")
