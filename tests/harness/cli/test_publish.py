"""`publish`, as a user types it."""

import pytest
import yaml
from synthetic import grid

from harness.cli import _status
from harness.cli.publish import hub_task


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> str:
    return grid(tmp_path_factory.mktemp("publish") / "store").uri


def test_the_model_index_is_printed(stored, capsys):
    assert _status(["publish", "mlp-svd-0.2-0", "--store", stored]) == 0

    (one,) = yaml.safe_load(capsys.readouterr().out)["model-index"]
    assert one["name"] == "mlp, svd, ratio 0.2, seed 0"
    assert one["results"][0]["task"]["type"] == "image-classification"


def test_a_benchmark_must_be_named(stored, capsys):
    words = ["publish", "mlp-svd-0.2-0", "--store", stored, "--format", "eval-results"]
    assert _status(words) == 2
    assert "takes one TRIAL, --dataset and --task-id" in capsys.readouterr().err

    assert _status([*words, "--dataset", "a/b", "--task-id", "default"]) == 0
    (entry,) = yaml.safe_load(capsys.readouterr().out)
    assert entry["dataset"] == {"id": "a/b", "task_id": "default"}


def test_a_trial_that_is_named_twice_is_printed_once(stored, capsys):
    words = ["publish", "mlp-svd-0.2-0", "mlp-svd-0.2-0", "--store", stored]
    assert _status(words) == 0
    (one,) = yaml.safe_load(capsys.readouterr().out)["model-index"]
    assert len(one["results"]) == 1


@pytest.mark.parametrize("option", ["dataset", "task-id", "metric", "url"])
def test_an_option_of_the_other_form_is_not_ignored(option, stored, capsys):
    words = ["publish", "mlp-svd-0.2-0", "--store", stored, f"--{option}", "x"]
    assert _status(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"--{option} is for --format eval-results" in said.err


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("digits", "image-classification"),
        ("wikitext2-2048", "text-generation"),
        ("hsk_gloss", "translation"),
        ("memory", "other"),
    ],
)
def test_the_type_of_a_task_is_that_of_the_hub(task, kind):
    assert hub_task(task) == kind
