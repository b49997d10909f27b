"""A coverage-guided fuzzer (atheris, on libFuzzer) over every target; `make fuzz`.

Each target runs in a process of its own, from its specimens and honest files, for so
many seconds. An input that ends in anything but a message, or takes too long or too
much memory, stops it and is kept. The counts go into docs/explanation/faults.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/explanation/faults.md"
SECONDS, MEGABYTES = 90, 3000  # that one input may take, and the whole process


def one(name: str, words: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["harness", "results", "yaml"]):
        import targets
        from specimens import SPECIMENS

        for _, data in SPECIMENS[name]():  # everything is imported by the first
            targets.message(name, data)
            break

    def give(data: bytes) -> None:
        targets.message(name, data)

    atheris.Setup([sys.argv[0], *words], give)
    atheris.Fuzz()


def seeds(name: str, folder: Path) -> None:
    """Write the files that mutations start from."""
    from specimens import SPECIMENS
    from test_hostile_files import HONEST, written

    folder.mkdir()
    found = [data for _, data in SPECIMENS[name]() if len(data) < 10_000]
    if name in HONEST:
        found.append(written(name, HONEST[name]))
    for number, data in enumerate(found):
        (folder / str(number)).write_bytes(data)


def guided(name: str, seconds: int) -> int:
    """Fuzz one target; how many inputs it was given."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        seeds(name, corpus)
        words = [f"-max_total_time={seconds}", f"-timeout={SECONDS}"]
        words += [f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1"]
        words += [f"-artifact_prefix={Path.cwd()}/fuzz-{name}-", str(corpus)]
        line = [sys.executable, __file__, "--one", name, *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    count = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    if done.returncode or count is None:
        sys.exit(f"{name}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return int(count[1])


def main(words: list[str]) -> None:
    """Fuzz every target for as many seconds as the first word says."""
    if words[:1] == ["--one"]:
        one(words[1], words[2:])
        return
    from targets import TARGETS

    seconds = int(words[0]) if words else 60
    lines = "| reader of | inputs tried |\n|---|---:|\n"
    total = 0
    for name in words[1:] or TARGETS:
        count = guided(name, seconds)
        total += count
        sys.stdout.write(f"{name}: {count} inputs\n")
        sys.stdout.flush()
        what = (TARGETS[name].__doc__ or "").strip().removesuffix(".")
        lines += f"| {what[0].lower() + what[1:]} | {count:,} |\n"
    lines += f"| together | {total:,} |\n"
    if words[1:]:
        return
    page = PAGE.read_text()
    made, found = re.subn(
        r"(<!-- fuzz -->\n).*?(<!-- end of fuzz -->)",
        lambda m: m[1] + lines + m[2],
        page,
        flags=re.S,
    )
    assert found == 1, f"{PAGE.name} has no place for the counts"
    PAGE.write_text(made)


if __name__ == "__main__":
    main(sys.argv[1:])
