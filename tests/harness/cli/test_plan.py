"""The table that `plan` prints."""

from harness.cli import _status


def test_bundles_that_differ_in_type_or_calibration_have_lines_of_their_own(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")
    path = tmp_path / "grid.yaml"
    path.write_text(
        "blocks:\n"
        "  - &first\n"
        "    models: [smollm2-135m]\n"
        "    methods: [wanda]\n"
        "    ratios: [0.2]\n"
        "    seeds: [0, 1]\n"
        "    calibration: {samples: 8, length: 64}\n"
        "    tasks: [pydoc-512]\n"
        "  - {<<: *first, dtype: bfloat16}\n"
        "  - {<<: *first, calibration: {samples: 16, length: 64}}\n"
    )
    assert _status(["plan", str(path), "--store", str(tmp_path / "none")]) == 0

    lines = [
        line.split(" smollm2-135m ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("wanda")
    ]
    assert [method.partition(" length=64 ")[2].strip() for method, _ in lines] == [
        "samples=8",
        "samples=8 bfloat16",
        "samples=16",
    ]
    # The method has no random numbers: one seed of the two.
    assert [rest.split() for _, rest in lines] == [["pydoc-512", "0.2", "0"]] * 3
