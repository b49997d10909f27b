"""Where the steps of a bundle keep the checkpoints of a training."""

from dataclasses import replace

from harness.planning.messages import Job
from harness.planning.plan import Bundle
from harness.planning.resources import Resources
from harness.planning.trial import PluginSpec, Trial
from harness.running.steps import Steps
from results.storage.store import open_store


def test_only_equal_trainings_share_a_folder_for_checkpoints(tmp_path):
    """Networks of equal shapes resume whatever lies there."""
    store = open_store(tmp_path, create=True)
    trial = Trial(
        method=PluginSpec(name="class_exclusion", plugin="class_exclusion"),
        model=PluginSpec(name="mlp", plugin="mlp"),
        task=PluginSpec(name="digits", plugin="digits", options='{"limit":100}'),
        ratio=0.2,
        seed=0,
    )
    less = replace(trial.task, options='{"limit":50}')

    def folder(one):
        bundle = Bundle(trials=(one,), artifacts=(), resources=Resources())
        job = Job(bundle=bundle, attempts={}, store=store.uri, run="r", grid="g")
        return Steps(job=job, store=store, built=())._scratch(one)

    others = [
        replace(trial, seed=1),
        replace(trial, dtype="float64"),
        replace(trial, task=less),
        replace(trial, calibration="{}"),
        replace(trial, method=PluginSpec(name="magnitude", plugin="magnitude")),
    ]
    assert folder(replace(trial, ratio=0.5)) == folder(trial)
    assert len({folder(one) for one in [trial, *others]}) == 6
