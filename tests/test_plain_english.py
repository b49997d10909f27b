"""Phrases that are hard to read, above all for readers whose language is another one.

Each has a plain replacement; see "Rules" in CONTRIBUTING.md.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTEAD = {
    r"in hand": "running, remaining or available",
    r"anew": "again",
    r"to be had": "available",
    r"(?<!there )is no (?!longer\b)[a-z]+": "is not a ...",
    r"whoever": "anyone who",
    r"mends?|mended|mending": "fix",
    r"one's own": "your own, or custom",
    r"of no account": "ignored",
    r"holds no truth": "keeps no state of its own",
}
PHRASES = [
    (re.compile(rf"\b(?:{phrase})\b", re.I), plain) for phrase, plain in INSTEAD.items()
]


def found(text: str) -> list[str]:
    """Line, phrase and replacement of each phrase; a phrase may span two lines."""
    joined = re.sub(r"\n[ \t]*(?:#|--)?[ \t]*", "\n", text)
    return [
        f"{joined[: m.start()].count(chr(10)) + 1}: {m[0]!r}: write {plain}"
        for pattern, plain in PHRASES
        for m in pattern.finditer(joined.replace("\n", " "))
    ]


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.sql", "*.yaml", "*.toml", "*.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    own = str(Path(__file__).relative_to(ROOT))
    return [f for f in listed if f != own and (ROOT / f).is_file()]


def test_texts_are_written_in_plain_english():
    checked = files()
    assert len(checked) > 300

    wrong = [
        f"{file}:{what}"
        for file in checked
        for what in found((ROOT / file).read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_phrase_is_found_across_lines_and_in_comments():
    assert found("# the trials in\n# hand")[0].startswith("1: 'in hand': write running")
    assert found("This is no number.")
    assert not found("There is no number, and it is no longer valid.")
    assert not found("Handling it in handlers, amend the recommendation.")
