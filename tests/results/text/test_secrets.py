"""Values of secrets and what looks like a token never reach a row or a log."""

import pytest

from results.text.secrets import redact


def test_values_of_secret_variables_become_their_names(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    monkeypatch.setenv("HOME_SWEET", "not-a-secret")

    said = redact("GET with hf_abcdef123456 from not-a-secret")

    assert said == "GET with <HF_TOKEN> from not-a-secret"


def test_values_of_five_characters_are_ordinary_words(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "sesame")
    monkeypatch.setenv("MY_TOKEN", "words")

    assert redact("sesame and words") == "<MY_PASSWORD> and words"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("token hf_" + "a" * 20, "token <secret>"),
        ("ghp_" + "B1" * 10 + ".", "<secret>."),
        ("AKIA" + "ABCD" * 4, "<secret>"),
        ("Authorization: Bearer " + "x.y-z_" * 4, "Authorization: Bearer <secret>"),
        ("https://me:word@host/a", "https://<secret>@host/a"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("risk-free hf_config sk-learn", "risk-free hf_config sk-learn"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text, left):
    assert redact(text) == left
