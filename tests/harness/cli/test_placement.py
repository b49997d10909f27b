"""`plan --cluster` says on how many GPUs each method fits, without weights or a hub."""

import re

import pytest
from click.testing import CliRunner

from harness.cli import cli

GRID = """
models: [meta-llama/Llama-2-70b-hf, meta-llama/Llama-3.1-8B]
methods: [dense, slicegpt]
ratios: [0.2]
tasks: [wikitext2-2048]
calibration: {text: wikitext2-train, samples: 8, length: 2048}
dtype: bfloat16
resources: {gpus: 1}
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "harness.planning.configured_plugin.revision_of",
        lambda plugin, instance: "pinned",
    )
    monkeypatch.setattr("harness.toolkit.texts.fingerprint", lambda text: "pinned")
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)

    def says(cluster):
        words = ["plan", str(path), "--cluster", cluster, "--store", "none"]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        return [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]

    return says


def test_a_large_model_is_spread_and_a_small_one_is_not(planned):
    lines = planned("8xH100")

    head = next(i for i, line in enumerate(lines) if "placement" in line)
    assert lines[head][-2:] == ["hours", "to change"]
    (large, dense, sliced), (small, *rest) = lines[head + 1 :][:3], lines[head + 4 :]
    assert (large, small) == (
        ["meta-llama/Llama-2-70b-hf"],
        ["meta-llama/Llama-3.1-8B"],
    )
    # 70B in bfloat16 are 138 GB, and two copies are 276 GB: 72 GB of each H100 may be
    # used, and the upper end of the peak is above 4 x 72 GB.
    assert (dense[0], *dense[2:4], dense[5]) == ("dense", "5", "devices", "gpus: 5")
    # The matrices of slicegpt must be on one device, and no device has 276 GB.
    assert (sliced[0], *sliced[2:4]) == ("slicegpt", "0", "blockwise")
    assert rest[0][2:4] == ["1", "device"]


def test_processors_have_no_such_table(planned):
    assert not any("placement" in line for line in planned("16xCPU"))
