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


def test_the_halves_of_the_manual_share_no_topic_and_make_the_whole():
    whole, first, second = map(texts.read, texts.PYDOC)

    assert whole == f"{first}\n\n{second}"
    assert min(len(first), len(second)) > 100_000


def test_texts_overlap_if_one_holds_words_of_the_other(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    one.write_text("a b c")
    copy.write_text("a b c")
    other.write_text("d e f")

    assert texts.overlap("wikitext2-test", "wikitext2-test")
    assert not texts.overlap("wikitext2-train", "wikitext2-test")
    assert texts.overlap("pydoc", "pydoc-test")
    assert texts.overlap("pydoc-train", "pydoc")
    assert not texts.overlap("pydoc-train", "pydoc-test")
    assert texts.overlap(str(one), str(copy))
    assert not texts.overlap(str(one), str(other))
    assert not texts.overlap(str(one), "pydoc-test")
    assert not texts.overlap(str(tmp_path / "none"), "pydoc-test")
