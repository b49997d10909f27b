r"""Text from rows and files, made harmless for a terminal, a spreadsheet, a page."""

from __future__ import annotations

import re
import unicodedata

# Characters that reorder or break the text around them: bidirectional marks,
# embeddings, overrides and isolates, line and paragraph separators, byte order marks.
_MOVING = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
# Control characters (ESC, BEL, all of C1; not tab or newline), and the halves of
# characters that Python uses for bytes which are not UTF-8.
_HARMFUL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_MOVING}]")
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves (CSI)
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links (OSC)
    r"|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_OVERWRITTEN = re.compile(r"[^\n\r]*\r+(?=[^\n\r])")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?")


def clean(text: str) -> str:
    r"""Returns a text with escapes in place of characters that could harm a reader.

    Args:
        text: Any text, with tabs and newlines, which stay.

    Returns:
        The text; ``\x1b`` stands for the character ESC, and so on.

    >>> clean("a\x1b[2Jb\n"), clean("\u202etxt.exe"), clean("naïve Ω 名")
    ('a\\x1b[2Jb\n', '\\u202etxt.exe', 'naïve Ω 名')
    """
    return _HARMFUL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def plain(text: str) -> str:
    r"""Returns what a program printed, without colours and other control characters.

    >>> plain("\x1b[31mred\x1b[0m\a\n")
    'red\n'
    """
    return _TERMINAL.sub("", text)


def as_seen(text: str) -> str:
    r"""Returns what a terminal would show of a program's output, harmless.

    Of a line that was written again and again, as progress bars are, the last stays.

    >>> as_seen("10%\r50%\r\x1b[32m100%\x1b[0m\r\ndone\n")
    '100%\ndone\n'
    """
    return clean(plain(_OVERWRITTEN.sub("", text)))


def is_formula(text: str) -> bool:
    r"""Whether a spreadsheet would compute a cell in place of showing it.

    Numbers are not formulas.

    >>> [is_formula(t) for t in ("=1+1", "+a", "-a", "@x", " =1", "\uff1d1")]
    [True, True, True, True, True, True]
    >>> [is_formula(t) for t in ("-1.5", "+1.5e3", "a=1", "", "-")]
    [False, False, False, False, False]
    """
    if _NUMBER.fullmatch(text) or text == "-":
        return False
    # Spreadsheets skip blanks and take full-width characters for the plain ones.
    first = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return first.startswith(("=", "+", "-", "@"))


def spreadsheet_cell(text: str) -> str:
    """Returns a text that a spreadsheet shows as it is: formulas get an apostrophe.

    >>> spreadsheet_cell("=HYPERLINK(1)"), spreadsheet_cell("-1.5")
    ("'=HYPERLINK(1)", '-1.5')
    """
    return f"'{text}" if is_formula(text) else text
