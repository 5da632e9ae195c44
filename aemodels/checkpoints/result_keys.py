"""Makes the keys under which results are kept, for whoever asks for the same again."""

from __future__ import annotations

from typing import Any

from aemodels.data.prepared import PreparedData, own_version
from aemodels.runtime.hashes import hash_of


def result_key(settings: Any, data: PreparedData) -> str:
    """Returns a hash of all that a result depends on: the settings, the images and this project's release.

    Args:
        settings: the settings, in the form that JSON takes.
    """
    return hash_of([settings, data.digest, own_version()])[:32]
