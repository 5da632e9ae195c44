"""Reads what the databases of MLflow, Optuna and Prefect hold, without their servers.

site.records.signs("chaos-07").stage  # "training"
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from postgres import Server

Rows = list[tuple[Any, ...]]
Query = Callable[..., Rows]  # SQL with ? for each value, and the values
SECONDS_AWAY = 180.0  # that a database may be away while it is read
EPOCHS = 30  # of every training of the suite
STAGES = ("prepare", "search", "training", "judging", "registration", "gate")

SIGNS = """
SELECT
 (SELECT count(*) FROM logged_models m WHERE m.experiment_id = e.experiment_id),
 (SELECT count(*) FROM model_versions v WHERE v.name = e.name),
 (SELECT count(*) FROM model_version_tags t WHERE t.name = e.name AND t.key LIKE 'gate.%'),
 (SELECT count(*) FROM registered_model_aliases a WHERE a.name = e.name AND a.alias = 'champion'),
 (SELECT count(*) FROM metrics JOIN runs r USING (run_uuid)
  WHERE r.experiment_id = e.experiment_id AND key NOT LIKE 'system/%'),
 (SELECT coalesce(max(step), 0) FROM metrics JOIN runs r USING (run_uuid) JOIN tags k USING (run_uuid)
  WHERE r.experiment_id = e.experiment_id AND metrics.key = 'train/loss' AND k.key = 'kind' AND k.value = 'training'),
 (SELECT max(r.status) FROM runs r JOIN tags k USING (run_uuid)
  WHERE r.experiment_id = e.experiment_id AND k.key = 'kind' AND k.value = 'search'),
 (SELECT max(r.status) FROM runs r JOIN tags k USING (run_uuid)
  WHERE r.experiment_id = e.experiment_id AND k.key = 'kind' AND k.value = 'training')
FROM experiments e WHERE e.name = ?
"""


class Signs(NamedTuple):
    """Signs tell how far the work under a registered name is. Any change of them shows that the work goes on."""

    models: int = 0  # of MLflow's logged models
    versions: int = 0
    verdict: int = 0  # tags of the gate's
    champions: int = 0
    points: int = 0  # of all metrics but the machine's
    epochs: int = 0  # tracked of the training
    search: str | None = None  # the status of its run, None before
    training: str | None = None

    @property
    def stage(self) -> str:
        """Returns the stage that the work is in; `end` is the time after the gate."""
        if self.champions:
            return "end"
        if self.training == "FINISHED":
            return "gate"
        if self.models:
            return "registration"
        if self.epochs == EPOCHS:
            return "judging"
        if self.training or self.search == "FINISHED":
            return "training"
        return "search" if self.search else "prepare"


@dataclass(frozen=True)
class Records:
    """Reads the databases of one site; Prefect has none at a site without a server."""

    mlflow: Query
    optuna: Query
    prefect: Query

    def signs(self, name: str) -> Signs:
        """Reads what MLflow holds of the experiment and the registered model of that name."""
        found = self.mlflow(SIGNS, name)
        return Signs(*found[0]) if found else Signs()


def of_postgres(server: Server, database: str) -> Query:
    """Queries a database over one connection, and waits while the server is away."""
    connection: psycopg.Connection | None = None
    alone = threading.Lock()

    def rows(query: str, *values: Any) -> Rows:
        nonlocal connection
        end = time.monotonic() + SECONDS_AWAY
        while True:
            try:
                with alone:
                    if connection is None or connection.closed:
                        connection = server.connect(database)
                    return connection.execute(query.replace("%", "%%").replace("?", "%s"), values).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    return rows


def of_file(path: Path) -> Query:
    """Queries a sqlite database. One that does not exist yet, or has no tables yet, holds nothing."""

    def rows(query: str, *values: Any) -> Rows:
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    return rows


def nothing(_query: str, *_values: Any) -> Rows:
    """Stands for the database of a server that is not there."""
    return []
