"""Estimates for what no finished trial has shown, from names and file sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.planning.trial import Part
from harness.scheduling.history import History
from harness.scheduling.predictor import Predictor
from harness.scheduling.priors import (
    BASE,
    CONTEXT,
    TRAINED,
    TYPICAL,
    guessed_params,
)

WEIGHTS = 175_000  # a model folder of 700 kB


def hub(name: str) -> Part:
    return Part(name=name, plugin="huggingface", options=json.dumps({"id": name}))


@pytest.fixture
def folder(tmp_path: Path) -> Part:
    """A model folder whose name says that it has 7 billion parameters."""
    where = tmp_path / "tiny-7b"
    where.mkdir()
    (where / "config.json").write_text('{"model_type": "gpt_neox"}')
    save_file({"weight": torch.zeros(WEIGHTS)}, where / "model.safetensors")
    return hub(str(where))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("some/opt-125m", 125e6),
        ("some/llama-2-7b", 7e9),
        ("some/a-1.5B", 1.5e9),
        ("some/mixtral-8x7b-v0.1", 56e9),  # all experts are loaded
        ("some/13b-4bit", 13e9),
        ("some/gpt2", TYPICAL["causal_lm"]),
        ("some/" + "9" * 500 + "b", TYPICAL["causal_lm"]),
    ],
)
def test_a_model_on_the_hub_states_its_size_by_its_name(name, params):
    assert guessed_params(hub(name)) == params
    assert History().params(hub(name)) == params


def test_a_model_that_is_trained_here_is_small():
    assert guessed_params(Part(name="mlp", plugin="mlp")) == TRAINED


def test_the_weight_files_of_a_folder_count_more_than_its_name(folder):
    assert guessed_params(folder) == WEIGHTS


def test_a_folder_of_700_kb_is_not_predicted_to_need_gigabytes(folder, plan):
    (bundle,) = plan().bundles
    trials = tuple(replace(t, model=folder) for t in bundle.trials)

    need = Predictor().bundle(replace(bundle, trials=trials))

    # toy_drop is data-free: 8 copies of float32 weights, half as much again at most.
    alive = 8 * 4 * WEIGHTS
    assert need.host.mid == BASE + alive
    assert need.host.high == BASE + 1.5 * alive < 10**9
    assert need.device.high == CONTEXT + 1.5 * alive
