"""Looks up what was decided about the versions of a model: champions, and decisions of people that made none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from aemodels.tracking.catalog import CHAMPION, aliases_of
from aemodels.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as StoredVersion

REIGN = "reign."  # the beginning of the tags of a version that tell when it became champion
DECISION = "decision."  # the beginning of those that tell of a person's decision that made no champion
PROMOTED, REJECTED, WITHOUT_EFFECT = "promoted", "rejected", "without effect"  # the decisions of a line of the history


class HistoryLine(NamedTuple):
    """Tells when a version became champion, or what a person decided that made no champion."""

    version: int
    since: datetime
    by: str  # a person, or "the gate"
    reason: str
    replaced: int | None  # the version that was champion before
    numbers: dict[str, float]  # what the gate compared; empty where a person decided
    decision: str  # PROMOTED, REJECTED or WITHOUT_EFFECT


def history(store: Store, name: str) -> list[HistoryLine]:
    """Returns all champions, and every decision of a person that made none, the latest last.

    A promotion that was killed before its alias moved is noted, yet did not happen. Each champion replaced the one
    before it, which tells the two cases apart.

    Raises:
        UserError: there is no such model.
    """
    wanted = aliases_of(store, name).get(CHAMPION)
    stored = store.client.search_model_versions(f"name = '{name}'", max_results=1000)
    lines = list(_lines_of(stored, DECISION))
    for reign in sorted(_lines_of(stored, REIGN), key=lambda reign: reign.since, reverse=True):
        if reign.version == wanted:
            lines.append(reign)
            wanted = reign.replaced
    return sorted(lines, key=lambda line: line.since)


def _lines_of(stored: Iterable[StoredVersion], kind: str) -> Iterator[HistoryLine]:
    """Yields what the tags of that kind tell, in no order."""
    told = {"since", "by", "reason", "replaced", "decision", "id"}
    for one in stored:
        for noted in (json.loads(text) for key, text in one.tags.items() if key.startswith(kind)):
            replaced = int(noted["replaced"]) if "replaced" in noted else None
            numbers = {key: float(value) for key, value in noted.items() if key not in told}
            since = datetime.fromisoformat(noted["since"])
            yield HistoryLine(
                int(one.version), since, noted["by"], noted["reason"], replaced, numbers, noted["decision"]
            )
