"""The commands that ask the store, as a user types them."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import pytest
from synthetic import grid, row

from harness.cli import main
from results.storage.folder import LocalFolder
from results.storage.store import Store, open_store


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Store:
    return grid(tmp_path_factory.mktemp("ask") / "store")


@dataclass
class Done:
    stdout: str
    stderr: str
    exit_code: int


@pytest.fixture
def run(capsys) -> Callable[..., Done]:
    """Type a command: what it prints, and the exit status."""

    def typed(verb: str, store: Store, *words: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([verb, *words, "--store", store.uri])
        return Done(*capsys.readouterr(), exit_code=left.value.code)

    return typed


def test_leaderboard_puts_dense_first_and_marks_the_best(run, stored, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # all columns
    out = run("leaderboard", stored, "--model", "mlp").stdout
    lines = [line for line in out.splitlines() if "dense" in line or "svd" in line]
    assert "dense" in lines[0]
    assert all(line.startswith("★") for line in lines[1:])
    assert "2/3" in out  # one trial of magnitude at 0.6 failed


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("md", "**mlp on digits**: accuracy"),
        ("latex", r"% needs \usepackage{booktabs"),
        ("html", '<figure class="leaderboard">'),
        ("csv", "task,task_options,protocol"),
        ("json", "["),
    ],
)
def test_leaderboard_prints_every_format(run, stored, form, start):
    done = run("leaderboard", stored, "--model", "mlp", "--format", form)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(start)


def test_groups_are_read_from_a_file(run, stored, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("groups:\n  images: [digits]\n  text: [nowhere]\n")
    words = ("--groups", str(file), "--format", "json", "--model", "mlp")
    done = run("leaderboard", stored, *words)

    rows = json.loads(done.stdout)
    assert {row["lacks"] for row in rows} == {"nowhere"}
    assert all(row["images"] > 0 and row["mean"] is None for row in rows)


def test_groups_and_the_mean_exclude_each_other(run, stored):
    done = run("leaderboard", stored, "--mean", "--groups", "capability")
    assert done.exit_code == 2
    assert "give --mean or --groups, not both" in done.stderr


def test_the_mean_has_no_latex(run, stored):
    done = run("leaderboard", stored, "--mean", "--format", "latex")
    assert done.exit_code == 2
    assert "--mean prints table, md, csv or json, not latex" in done.stderr


@pytest.mark.parametrize("width", [80, 120, 200])
def test_leaderboard_fits_the_terminal_and_breaks_no_name(
    run, stored, monkeypatch, width
):
    monkeypatch.setenv("COLUMNS", str(width))
    out = run("leaderboard", stored).stdout
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out  # nothing is cut off
    assert {"dense", "svd", "magnitude"} <= set(out.split())
    assert ("seeds" in out) == (width > 100)


@pytest.mark.parametrize(
    ("words", "variables", "colored"),
    [
        ((), {}, True),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"TERM": "dumb"}, False),
        (("--color", "never"), {}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
    ],
)
def test_colours_obey_the_terminal(
    stored, capsys, monkeypatch, words, variables, colored
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        main([*words, "leaderboard", "--store", stored.uri])
    assert ("\x1b[" in capsys.readouterr().out) == colored


def test_leaderboard_gives_json_and_csv(run, stored):
    rows = json.loads(run("leaderboard", stored, "--format", "json").stdout)
    assert rows[0]["method"] == "dense"
    csv = run("leaderboard", stored, "--format", "csv").stdout.splitlines()
    assert len(csv) == len(rows) + 1


def test_a_metric_that_does_not_exist_offers_the_nearest(run, stored):
    done = run("leaderboard", stored, "--metric", "accurac")
    assert done.exit_code == 2
    assert "Did you mean 'accuracy'?" in done.stderr


def test_an_empty_store_says_what_to_do(run, tmp_path):
    done = run("leaderboard", open_store(tmp_path / "store", create=True))
    assert done.exit_code == 2
    assert "shrinkgrid run" in done.stderr


def test_no_store_exits_with_2(run, tmp_path):
    done = run("leaderboard", Store(folder=LocalFolder(tmp_path / "none")))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: no store at")


def test_sql_answers_from_an_argument_and_from_stdin(run, stored, monkeypatch):
    query = "SELECT count(*) AS n FROM failures"
    assert json.loads(run("sql", stored, query, "--format", "json").stdout) == [
        {"n": 1}
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(query.encode())))
    piped = run("sql", stored, "-", "--format", "csv")
    assert piped.stdout == "n\n1\n"


def test_sql_that_writes_exits_with_2(run, stored, tmp_path):
    done = run("sql", stored, f"COPY trials TO '{tmp_path}/x.csv'")
    assert done.exit_code == 2
    assert "only reads" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_warning_about_damage_goes_to_stderr(run, tmp_path):
    store = grid(tmp_path / "store")
    (store.folder.local / "trials" / "x.parquet").write_bytes(b"PAR1")
    done = run("sql", store, "SELECT count(*) AS n FROM trials", "--format", "csv")
    assert done.stdout == "n\n28\n"
    assert "warning: trials/x.parquet is damaged" in done.stderr


def test_compact_says_what_it_folded(run, tmp_path):
    store = open_store(tmp_path / "store", create=True)
    for i in range(3):
        store.append(row(f"t{i}"))
    assert run("compact", store).stdout == "trials: 3 files -> 1, 3 rows\n"
    assert run("compact", store).stdout == "nothing to fold\n"


def test_export_opens_in_the_plain_client_with_all_views(run, stored, tmp_path):
    file = tmp_path / "copy.duckdb"
    assert run("export", stored, str(file)).exit_code == 0
    with duckdb.connect(str(file), read_only=True) as plain:
        rows = plain.execute("SELECT method FROM leaderboard").fetchall()
        assert rows[0] == ("dense",)
        assert plain.execute("SELECT count(*) FROM samples").fetchone() == (20,)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_export_writes_one_file_a_view(run, stored, tmp_path, form):
    folder = tmp_path / "copy"
    assert run("export", stored, str(folder), "--format", form).exit_code == 0
    file = folder / f"newest.{form}"
    assert duckdb.sql(f"SELECT count(*) FROM '{file}'").fetchall() == [(28,)]


def test_export_never_overwrites(run, stored, tmp_path):
    file = tmp_path / "thesis.duckdb"
    file.write_text("precious")
    done = run("export", stored, str(file))
    assert done.exit_code == 2
    assert file.read_text() == "precious"


def test_leaderboard_of_a_ratio_and_of_the_best_keeps_dense(run, stored):
    found = json.loads(run("leaderboard", stored, "--format", "json").stdout)
    ratio = max(row["ratio"] for row in found)

    done = run(
        "leaderboard", stored, "--ratio", str(ratio), "--top", "1", "--format", "json"
    )

    rows = json.loads(done.stdout)
    assert {row["ratio"] for row in rows} == {0, ratio}
    assert all(row["place"] == 1 for row in rows if row["method"] != "dense")
    # Not whole rows: means are summed in any order, and may differ in the last digit.
    keys = [(row["task"], row["metric"], row["method"], row["ratio"]) for row in rows]
    every = [(row["task"], row["metric"], row["method"], row["ratio"]) for row in found]
    assert keys == [key for key in every if key in keys], "in the same order"


def test_leaderboard_where_takes_sql_over_its_columns(run, stored):
    done = run("leaderboard", stored, "--where", "recovery < 0.95", "--format", "json")

    rows = json.loads(done.stdout)
    assert rows
    assert all(row["recovery"] < 0.95 for row in rows if row["method"] != "dense")


def test_leaderboard_of_a_grid_has_only_its_trials(run, tmp_path):
    store = grid(tmp_path / "store")
    one = row("one", method="gptq", ratio=0.5, measured={"accuracy": 0.5}, grid="other")
    store.append(one)
    store.record_plan(
        [
            {"plan": "p", "grid": "other", "trial": one["trial"]}
            | {"planned_at": one["started_at"]}
        ]
    )

    done = run("leaderboard", store, "other", "--format", "json")

    assert [row["method"] for row in json.loads(done.stdout)] == ["gptq"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ratio", "0.123"], "no row has the ratio 0.123; there are 0, "),
        (["--where", "recovry > 1"], 'Candidate bindings: "recovery"'),
        (["--where", "recovery > 99"], "no row of the leaderboard fits --where"),
        (["--where", "1); DROP TABLE x; --"], "write one SELECT statement at a time"),
        (["nosuchgrid"], "no grid called 'nosuchgrid'"),
        (["--top", "0"], "0 is not in the range"),
    ],
)
def test_leaderboard_choices_that_choose_nothing_say_why(run, stored, words, said):
    done = run("leaderboard", stored, *words)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert said in done.stderr


def test_leaderboard_is_sorted_by_a_column_with_dense_first(run, stored):
    words = ("--format", "json", "--sort=-mean")
    rows = json.loads(run("leaderboard", stored, *words).stdout)

    dense = [row for row in rows if row["method"] == "dense"]
    others = [row["mean"] for row in rows if row["method"] != "dense"]
    assert rows[: len(dense)] == dense
    assert others == sorted(others, reverse=True)
    wrong = run("leaderboard", stored, "--sort", "byte")
    assert wrong.exit_code == 2
    assert "Did you mean 'bytes'?" in wrong.stderr
