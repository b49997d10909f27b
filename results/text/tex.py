"""Text for LaTeX."""

from __future__ import annotations

import unicodedata

from results.text.formats import DASH

# What a document needs for the tables of this package.
PACKAGES = r"\usepackage{booktabs,graphicx,textcomp} and \usepackage[T1]{fontenc}"

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"$^{\dagger}$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "★": r"$\star$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # two of them would be a dash
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "÷": r"$\div$",
    DASH: "--",
}


# Letters beyond ASCII that the encoding T1 has a glyph for.
_TEX_LETTERS = frozenset(
    "¡£§«»¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿĂăĄąĆćČčĎďĐđĘęĚě"
    "ĞğİıĹĺĽľŁłŃńŇňŊŋŐőŒœŔŕŘřŚśŞşŠšŢţŤťŮůŰűŸŹźŻżŽž"
)


def tex(text: str) -> str:
    """``text`` so that LaTeX prints it unchanged, with ``?`` for what it cannot print.

    A letter without a glyph loses its accent.
    """
    return "".join(map(_character, " ".join(str(text).split())))


def _character(c: str) -> str:
    if c in _TEX:
        return _TEX[c]
    if c in "#$%&_{}":
        return "\\" + c
    if (c.isascii() and c.isprintable()) or c in _TEX_LETTERS:
        return c
    # Decomposed, the base letter comes first and its accents follow.
    base = unicodedata.normalize("NFKD", c)[0]
    return base if base.isascii() and base.isalnum() else "?"
