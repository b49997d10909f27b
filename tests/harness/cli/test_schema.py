"""The schema takes every packaged grid, and refuses what a person mistypes."""

import json

import jsonschema
import pytest
import yaml

from harness.cli import _status
from harness.cli._schema import schema
from harness.planning.grid import packaged

GRID = {
    "models": ["mlp", {"name": "mlp", "hidden": [300, 100]}, "huggyllama/llama-7b"],
    "methods": [
        "dense",
        {"name": "magnitude", "scope": "layer"},
        {"chain": ["svd", {"name": "round_to_nearest", "bits": 8}]},
        {"name": "dropback", "recipe": {"epochs": 2}},
    ],
    "ratios": [0.2, 0],
    "tasks": ["digits", {"name": "digits", "select_on": "validation"}, "arc_easy"],
    "seeds": [0, 1],
    "exclude": [{"method": ["svd", "wan*"], "ratio": 0.4}],
    "calibration": {"text": "pydoc-train", "samples": 64},
    "dtype": "bf16",
    "resources": {"cpus": 1, "time": "30m", "for": [{"model": "m*", "gpus": 0.5}]},
    "x-anchors": ["any", "thing"],
}


@pytest.fixture(scope="module")
def checker():
    made = schema()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(json.loads(json.dumps(made)))


@pytest.mark.parametrize("name", sorted(packaged()))
def test_every_packaged_grid_is_valid(checker, name):
    value = yaml.safe_load(packaged()[name].read_text())

    assert [error.message for error in checker.iter_errors(value)] == []


def test_every_form_of_the_guide_is_valid(checker):
    assert [error.message for error in checker.iter_errors(GRID)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ["mlp"]},
        {"models": "mlp"},
        {"models": []},
        {"methods": ["svdd"]},
        {"methods": [{"magnitude": {"scope": "layer"}}]},
        {"methods": [{"name": "magnitude", "scop": "layer"}]},
        {"methods": [{"name": "magnitude", "scope": "row"}]},
        {"methods": [{"chain": ["svd", "nothing"]}]},
        {"methods": [{"chain": ["svd", {"name": "magnitude", "ratio": 2}]}]},
        {"methods": [{"name": "magnitude", "ratio": 0.1}]},  # only in a chain
        {"methods": [{"name": "dropback", "recipe": {"epoch": 2}}]},
        {"models": [{"name": "mlp", "hidden": ["wide"]}]},
        {"ratios": [20]},
        {"ratios": ["40%"]},
        {"seeds": [-1]},
        {"dtype": "float8"},
        {"exclude": [{"methods": "svd"}]},
        {"calibration": {"nsamples": 64}},
        {"resources": {"cpu": 1}},
        {"resources": {"for": [{"modell": "m*"}]}},
        {"blocks": [{"ratio": [0.2]}]},
    ],
    ids=str,
)
def test_what_is_mistyped_is_refused(checker, wrong):
    assert not checker.is_valid(GRID | wrong)


def test_an_option_has_its_meaning_and_its_default(checker):
    whole = checker.schema["definitions"]["method"]["anyOf"][1]
    (magnitude,) = (
        one["then"]
        for one in whole["allOf"]
        if one["if"]["properties"]["name"]["const"] == "magnitude"
    )

    scope = magnitude["properties"]["scope"]
    assert scope["default"] in scope["enum"]
    assert len(scope["description"]) > 10


def test_the_command_prints_it_or_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert _status(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert _status(["schema", "--out", "grid.json"]) == 0
    assert json.loads((tmp_path / "grid.json").read_text()) == printed
    assert _status(["schema", "--out", "no/grid.json"]) == 2
    assert "no/grid.json cannot be written" in capsys.readouterr().err
