"""A measurement of speed has its device to itself, wherever it runs."""

import pytest

GRID = """
models: [{name: mlp, recipe: {epochs: 1}}]
methods: [dense, magnitude, svd]
ratios: [0.3]
tasks:
  - {name: digits, limit: 300}
  - {name: latency, trained_on: {name: digits, limit: 300}, repeats: 500}
"""


@pytest.mark.slow
def test_on_ray_nothing_runs_beside_a_measurement_of_speed(tmp_path, capsys):
    from harness.cli import main
    from results.queries.db import connect
    from results.storage.store import open_store

    path = tmp_path / "speed.yaml"
    path.write_text(GRID)
    where = str(tmp_path / "store")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), "--store", where, "--cpus", "4", "--quiet"])
    assert ended.value.code == 0, capsys.readouterr().err

    rows = connect(open_store(where)).execute(
        "SELECT task, epoch(started_at), epoch(started_at) + seconds, protocol "
        "FROM trials WHERE status = 'ok' ORDER BY 2"
    )
    spans = rows.fetchall()
    assert [s[0] for s in spans].count("latency") == 3
    for task, began, ended_at, _ in spans:
        beside = [s for s in spans if s[1] < ended_at and began < s[2]]
        if task == "latency":
            assert len(beside) == 1
    assert len({s[3] for s in spans if s[0] == "latency"}) == 1
