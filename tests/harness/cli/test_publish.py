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
