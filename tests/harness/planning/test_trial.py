"""Identities: an id that changes makes every stored result look missing."""

from dataclasses import replace

import pytest

from harness.planning.trial import PluginSpec, Trial, digest

TRIAL = Trial(
    method=PluginSpec(name="svd", plugin="svd"),
    model=PluginSpec(name="mlp", plugin="mlp", revision="1"),
    task=PluginSpec(name="digits", plugin="digits", protocol='{"split":"test"}'),
    ratio=0.5,
    seed=0,
)


def test_the_id_of_a_trial_is_the_one_under_which_stores_know_it():
    # Written down once. A change of the rule orphans every store that exists.
    assert TRIAL.id == "a4dd402adf514e96"
    assert digest({"b": 1, "a": [2]}) == "63c9663de90ee828"
    assert len(digest(1, 64)) == 64


@pytest.mark.parametrize(
    "changed",
    [
        replace(TRIAL, method=PluginSpec(name="svd", plugin="svd", version=2)),
        replace(TRIAL, method=PluginSpec(name="svd", plugin="svd", options='{"a":1}')),
        replace(TRIAL, model=PluginSpec(name="mlp", plugin="mlp", revision="2")),
        replace(TRIAL, task=PluginSpec(name="digits", plugin="digits", protocol="{}")),
        replace(TRIAL, ratio=0.25),
        replace(TRIAL, seed=1),
        replace(TRIAL, dtype="float16"),
        replace(TRIAL, calibration="{}"),
    ],
)
def test_everything_that_changes_a_number_changes_the_id(changed):
    assert changed.id != TRIAL.id


def test_the_plugin_behind_a_name_does_not_change_the_id():
    renamed = PluginSpec(name="svd", plugin="other")
    assert replace(TRIAL, method=renamed).id == TRIAL.id


def test_an_identity_lists_the_calibration_only_if_one_is_read():
    assert "calibration" not in TRIAL.identity()
    assert replace(TRIAL, calibration='{"n":4}').identity()["calibration"] == {"n": 4}
