"""Makes hashes that name what depends on settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def hash_of(content: Any) -> str:
    """Returns the SHA-256 of what JSON can hold, in hexadecimal digits; the order of the keys does not count.

    Example:
        >>> hash_of({"a": 1, "b": [2, 3]}) == hash_of({"b": [2, 3], "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
