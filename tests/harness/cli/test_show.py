"""The commands that show results, as a user types them."""

from collections.abc import Callable

import pytest
from synthetic import grid

from harness.cli import main
from results.storage.store import Store


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Store:
    return grid(tmp_path_factory.mktemp("show") / "store")


@pytest.fixture
def run(capsys, stored) -> Callable[..., tuple[int, str, str]]:
    """Type a command: the exit status, and what it prints."""

    def typed(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*words, "--store", stored.uri])
        return (left.value.code, *capsys.readouterr())

    return typed


OWN = ("table", "--rows", "method", "--rows", "ratio", "--cols", "model")


def test_a_paper_is_shown_for_the_small_twin_and_headed_as_such(run):
    status, out, _ = run("table", "basis_sharing_2", "--model", "smollm2-135m")
    assert status == 0
    assert "smollm2-135m stands for llama2-7b" in out.splitlines()[1]
    assert "5.47" in out  # the published number stays beside


def test_a_custom_table_written_to_a_file_verifies(run, tmp_path):
    status, out, _ = run(*OWN, "--metric", "accuracy", "--format", "md")
    assert status == 0
    (tmp_path / "t.md").write_text(out)
    assert run("verify", str(tmp_path / "t.md"))[0] == 0
    (tmp_path / "t.md").write_text(out.replace("0.9433[", "0.9434["))
    status, out, _ = run("verify", str(tmp_path / "t.md"))
    assert status == 1
    assert "0.9434 is written, the store gives 0.9433" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table", "basis_sharing_22"), "Did you mean 'basis_sharing_2'"),
        (("table",), "name a paper"),
        (("table", "hrank", "--substitute", "vgg16"), "is not THEIRS=OURS"),
        (("table", "hrank", "--substitute", "vgg=mlp"), "Did you mean 'vgg16'"),
        ((*OWN, "--metric", "acc"), "no metric called 'acc'"),
        (("plot", "pareto", "--out", "x.gif"), "does not end in .svg, .pdf or .png"),
        (("plot", "pareto", "--out", "x.svg"), "2 models fit: 'mlp', 'smollm2-135m'"),
        (("report", "--out", "/proc/nothing"), "cannot be written"),
    ],
)
def test_an_error_is_one_message_and_exit_status_2(run, words, message):
    status, _, err = run(*words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_a_figure_is_written(run, tmp_path, form):
    file = tmp_path / f"front.{form}"
    words = ("plot", "pareto", "--model", "mlp", "--out", str(file), "--cost", "bytes")
    assert run(*words)[0] == 0
    assert file.stat().st_size > 5000


def test_a_report_is_written(run, tmp_path):
    assert run("report", "--out", str(tmp_path / "r"))[0] == 0
    assert "<title>shrinkgrid</title>" in (tmp_path / "r" / "index.html").read_text()


def test_a_report_of_an_unknown_grid_names_the_known_ones(run, tmp_path):
    status, _, err = run("report", "synthetik", "--out", str(tmp_path / "r"))

    assert (status, (tmp_path / "r").exists()) == (2, False)
    assert "Did you mean 'synthetic'?" in err


def test_a_report_onto_a_file_says_that_out_is_a_folder(run, tmp_path):
    (tmp_path / "page.html").write_text("")

    status, _, err = run("report", "--out", str(tmp_path / "page.html"))

    assert status == 2
    assert "is a file, and the report is written into a folder" in err
