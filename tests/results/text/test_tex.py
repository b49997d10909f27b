"""Text that LaTeX prints as it is."""

import pytest

from results.text.formats import DASH
from results.text.tex import tex


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a_b 5% {x} #1 $2 &", r"a\_b 5\% \{x\} \#1 \$2 \&"),
        ("a -- b", "a {-}{-} b"),  # two hyphens, not one dash
        (DASH, "--"),
        ("x  y\n z", "x y z"),  # one space stands for any number of them
        ("Łódź é", "Łódź é"),
        ("ẽ", "e"),  # no glyph: the accent is lost
        ("漢 \x1b …", "? ? ?"),
        ("\\", r"\textbackslash{}"),
    ],
)
def test_a_text_prints_as_it_is(text, printed):
    assert tex(text) == printed
