"""Hides secrets in texts that are stored or shown."""

from __future__ import annotations

import os
import re

_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL", re.I)
# Tokens with a known beginning (Hugging Face, GitHub, GitLab, OpenAI, Slack, AWS), the
# value of an Authorization header, and the password of a URL.
_VALUE = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abprs]-)[A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SHORTEST = 6  # characters of a value; shorter ones are ordinary words too


def redact(text: str) -> str:
    """Return a text without secrets.

    Args:
        text: What a program printed, or the message of an error.

    Returns:
        The text. ``<NAME>`` stands for the value of an environment variable whose name
        says that it is a secret, ``<secret>`` for what looks like a token, a key or a
        password.

    >>> redact("GET https://me:pass@host/x?t=hf_abcdefghijklmnopqrst")
    'GET https://<secret>@host/x?t=<secret>'
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAME.search(name):
            text = text.replace(value, f"<{name}>")
    return _VALUE.sub("<secret>", text)
