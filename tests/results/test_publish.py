"""Numbers for model cards, read again by the programs that define them."""

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from synthetic import row

from results.errors import StoreError
from results.publish import as_yaml, eval_results, finished, model_index

PERPLEXITY = {
    "metric": "perplexity",
    "value": 12.25,
    "unit": "1",
    "goal": "min",
    "stderr": 0.5,
    "n": 340,
}


@pytest.fixture
def measured(empty):
    """Two tasks on one network, a third on another, and a failed trial."""
    curve = {"metric": "loss", "value": 3.0, "unit": "1", "goal": "min", "step": 1}
    same = {"model": "org/base", "method_options": '{"bits":4}'}
    empty.append(row("aa", task="wiki", measurements=[PERPLEXITY, curve], **same))
    hub = "ylecun/mnist/mnist@0123abcd:train60000"
    empty.append(row("bb", task="mnist", data_fingerprint=hub, minute=1, **same))
    empty.append(row("cc", ratio=0.5, **same))
    empty.append(row("dd", status="failed", **same))
    return empty


def kind(task: str) -> str:
    return {"wiki": "text-generation"}.get(task, "image-classification")


def test_hugging_face_reads_the_model_index(measured):
    text = as_yaml(model_index(finished(measured, ["aa", "bb"]), kind))

    name, found = model_index_to_eval_results(yaml.safe_load(text)["model-index"])

    assert name == "org/base, svd bits=4, ratio 0.2, seed 0"
    digits, wiki = found  # ordered by task
    assert (digits.dataset_type, digits.dataset_config) == ("ylecun/mnist", "mnist")
    assert digits.dataset_revision == "0123abcd"
    assert (digits.metric_type, digits.metric_value) == ("accuracy", 0.9)
    assert (wiki.task_type, wiki.dataset_type) == ("text-generation", "wiki")
    assert (wiki.metric_type, wiki.metric_value) == ("perplexity", 12.25)
    assert wiki.metric_name == "perplexity (standard error 0.5, n = 340)"


def test_a_card_describes_one_network(measured):
    with pytest.raises(StoreError, match="these trials are of 2 networks"):
        model_index(finished(measured, ["aa", "cc"]), kind)


def test_a_trial_without_numbers_is_refused(measured):
    with pytest.raises(StoreError, match="trial dd has not ended well"):
        finished(measured, ["aa", "dd"])


def test_hugging_face_reads_the_eval_results(measured):
    (trial,) = finished(measured, ["aa"])
    words = {"dataset": "org/bench", "task_id": "default"}

    text = as_yaml(eval_results(trial, **words, url="https://example.org/report"))

    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id) == ("org/bench", "default")
    assert (entry.value, entry.date) == (12.25, "2026-01-01T12:00:00Z")
    assert entry.source_url == "https://example.org/report"
    assert "ratio 0.2" in entry.notes
    assert "trial aa" in entry.notes
    with pytest.raises(StoreError, match=r"no metric of trial aa called 'acc'"):
        eval_results(trial, **words, metric="acc")
