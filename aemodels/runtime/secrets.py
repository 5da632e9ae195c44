"""Keeps secrets that the environment holds out of messages and logs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

# The names of variables that hold secrets end in one of these.
SECRETS = ("PASSWORD", "TOKEN", "SECRET", "AUTH_STRING", "ACCESS_KEY", "SECRET_KEY", "API_KEY")
SHORTEST_SECRET = 4  # characters; shorter ones would be found in ordinary words


def without_secrets(text: str) -> str:
    """Returns the text without users and passwords in addresses, and without what the environment keeps secret."""
    text = re.sub(r"(\w://)[^\s/]*@", r"\1", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        in_address = re.search(r"\w://[^\s/:]*:(\S*)@", value)  # up to the last @, as a password may hold a slash
        secret = value if name.upper().endswith(SECRETS) else in_address[1] if in_address else ""
        if len(secret) >= SHORTEST_SECRET:
            yield secret
