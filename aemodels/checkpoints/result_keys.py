"""Makes the keys under which results are kept, for whoever asks for the same again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from aemodels.data.prepared import PreparedData, own_version


def result_key(settings: Any, data: PreparedData) -> str:
    """Returns a hash of all that a result depends on: the settings, the images and this project's release.

    Args:
        settings: the settings, in the form that JSON takes.
    """
    text = json.dumps([settings, data.digest, own_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
