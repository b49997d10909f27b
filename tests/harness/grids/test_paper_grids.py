"""The packaged grids of the low-rank papers are well-formed, sizes unseen."""

import json

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.core import BenchError
from harness.planning import configured_plugin, grid, plan

# Trials a grid expands to. Methods of one ratio (dense) count once a task; FWSVD, ASVD
# and the others once a ratio and task.
TRIALS = {
    # 10 tasks x (dense + 6 methods x 4 ratios) + 2 models x 7 + 4 + 9 groups x 4 ratios
    "basis_sharing": 10 * (1 + 6 * 4) + 2 * (1 + 6) + 4 + 9 * 4,
    "basis_sharing_small": 1 + 8 * 2,
    # 4 models x 2 tasks x (dense + 5 methods x 3 ratios)
    "svd_llm": 4 * 2 * (1 + 5 * 3),
    "svd_llm_small": 1 + 6 * 2,
    # 7 models x (dense + 2:4, whose ratio is fixed + 4 ratios)
    "slicegpt": 7 * (1 + 1 + 4),
    # 4 models x 8 tasks x (dense + 4 methods)
    "svd_llm_v2": 4 * 8 * (1 + 4),
    # 10 tasks x (dense + 4 ratios), 9 tasks x (dense + 5 methods), and 5 methods at 2
    # ratios, of which 2 at 0.2 are planned already
    "d_rank": 10 * (1 + 4) + 9 * (1 + 5) + 5 * 2 - 2,
    # 10 tasks x (2 models x (dense + 4 methods x 2 ratios) + dense + 3 methods x 2)
    "lowrankarena": 10 * (2 * (1 + 4 * 2) + 1 + 3 * 2),
    # 5 models x (dense + 5 methods x 2 ratios)
    "large_models": 5 * (1 + 5 * 2),
    # 6 tasks x (dense + 5 methods x 2 ratios)
    "joint_rank_k": 6 * (1 + 5 * 2),
    "joint_rank_k_small": 1 + 6 * 2,
}


@pytest.mark.parametrize("name", TRIALS)
def test_a_paper_grid_plans_without_weights_or_data(name, monkeypatch):
    monkeypatch.setattr(
        configured_plugin, "revision_of", lambda plugin, instance: "pinned"
    )
    monkeypatch.setattr("harness.toolkit.texts.fingerprint", lambda text: "pinned")
    made = plan.make(grid.read(grid.locate(name)))

    assert not made.unsupported
    assert sum(len(bundle.trials) for bundle in made.bundles) == TRIALS[name]
    gpus = {bundle.resources.gpus for bundle in made.bundles}
    several = {4.0, 8.0} if name == "large_models" else set()
    assert gpus == {None if name.endswith("_small") else 1.0, *several}


def test_plan_shows_a_grid_whose_model_and_data_are_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = tmp_path / "far.yaml"
    path.write_text(
        "{models: [nobody/nothing-7b], methods: [dense, svd], ratios: [0.2], "
        "tasks: [ptb-2048]}"
    )
    said = CliRunner().invoke(cli, ["plan", str(path), "--json", "--store", "none"])

    assert said.exit_code == 0
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert [row["state"] for row in rows] == ["run", "run"]
    assert "nobody/nothing-7b" in said.stderr
    assert "shrinkgrid prepare" in said.stderr
    with pytest.raises(BenchError, match="nobody/nothing-7b"):
        grid.read(path)
