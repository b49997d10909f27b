"""Estimates for what no finished trial has shown, from names and file sizes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.planning.plan import Artifact, has_fit
from harness.planning.trial import PluginSpec
from harness.scheduling.history import History
from harness.scheduling.interval import Interval
from harness.scheduling.predictor import Predictor
from harness.scheduling.priors import (
    BASE,
    CONTEXT,
    TRAINED,
    TYPICAL,
    alive_bytes,
    artifact_seconds,
    guessed_params,
    kind_of,
    step_seconds,
    tokens,
)

WEIGHTS = 175_000  # a model folder of 700 kB


def hub(name: str) -> PluginSpec:
    return PluginSpec(name=name, plugin="huggingface", options=json.dumps({"id": name}))


@pytest.fixture
def folder(tmp_path: Path) -> PluginSpec:
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
    assert guessed_params(PluginSpec(name="mlp", plugin="mlp")) == TRAINED


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


@pytest.mark.parametrize(
    ("method", "step", "seconds"),
    [
        # Fixed seconds, and seconds for each of 2 million parameters at half the speed
        # of a thread: four times the number in the table.
        ("dense", "load", 3 + 4 * 0.05),
        ("dense", "evaluate", 1 + 4 * 0.05),
        ("dense", "fit", 0),
        ("dense", "compress", 4 * 0.01),
        ("svd", "fit", 4 * 0.1),
        ("svd", "compress", 4 * 0.05),
        ("svd_llm", "fit", 1 + 4 * 1.0),
        ("svd_llm", "compress", 4 * 0.1),
    ],
)
def test_a_step_takes_fixed_seconds_and_seconds_a_parameter(method, step, seconds):
    part = PluginSpec(name=method, plugin=method)
    found = step_seconds(step, part, 2 * 10**6, 0.5)

    assert found.mid == pytest.approx(seconds)
    assert (found.low, found.high) == (
        pytest.approx(seconds / 10),
        pytest.approx(seconds * 10),
    )


def test_trainings_take_their_epochs():
    # Without a fit a method trains at each compression: 1.5 s and 5 s a million
    # parameters for each of 40 epochs, beside its fixed seconds.
    options = '{"recipe": {"epochs": 40}}'
    part = PluginSpec(name="dropback", plugin="dropback", options=options)
    assert kind_of(part) == "training_data"
    assert not has_fit(part)
    assert step_seconds("fit", part, 10**6, 1.0).high == 0
    found = step_seconds("compress", part, 2 * 10**6, 4.0)
    assert found.mid == pytest.approx(10 + 40 * (1.5 + 5 * 2 / 4))

    # With one, `train` is in the fit and what follows the cut is not.
    options = '{"train": {"epochs": 3}, "finetune": {"epochs": 7}}'
    part = PluginSpec(name="s", plugin="network_slimming", options=options)
    assert has_fit(part)
    assert step_seconds("fit", part, 10**6, 1.0).mid == pytest.approx(10 + 3 * 6.5)
    assert step_seconds("compress", part, 10**6, 1.0).mid == pytest.approx(7 * 6.5)


def test_an_artifact_is_a_training_or_a_load_with_one_fit():
    options = '{"recipe": {"epochs": 30}}'
    model = PluginSpec(name="mlp", plugin="mlp", options=options)
    dense = Artifact(kind="dense", model=model, dtype="float32")
    statistics = Artifact(kind="calibration", model=model, dtype="float32")

    assert artifact_seconds(dense, 2 * 10**6, 2.0).mid == pytest.approx(30 * 6.5)
    assert artifact_seconds(statistics, 2 * 10**6, 2.0).mid == pytest.approx(3 + 1.05)


def test_memory_at_the_peak_is_so_many_copies_of_the_weights():
    svd = PluginSpec(name="svd", plugin="svd")

    assert alive_bytes(svd, 300, "float32") == Interval(3200, 9600, 14400)
    assert alive_bytes(svd, 300, "float16").mid == 4800


@pytest.mark.parametrize(
    ("protocol", "count"),
    [
        ('{"batch": 8, "window": 128}', 1024),
        ('{"batch_size": 4, "length": "long"}', 4),
        ("{}", 1),
        ('{"batch": 0}', 1),
    ],
)
def test_a_forward_pass_reads_what_the_protocol_states(protocol, count):
    assert tokens(protocol) == count
