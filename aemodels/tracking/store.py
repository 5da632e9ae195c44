"""Opens the MLflow store: a server (MLFLOW_TRACKING_URI), or the embedded one in the store folder; links into its UI.

The embedded store is a sqlite database with artifacts beside it. MLflow is imported when a store is opened. So
this module costs nothing to those who only need a link, and a store can be opened in a thread.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from aemodels.config import UnreachableError, UserError
from aemodels.runtime.environment import sqlite_file, store_folder, tracking_uri
from aemodels.runtime.files import in_words
from aemodels.runtime.secrets import without_secrets
from aemodels.tracking.embedded import ensure_database, quiet
from aemodels.tracking.outages import is_outage
from aemodels.tracking.views import PICTURES, TABLE, TAG, systems_view, view_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

UI_PORT = 5000
ANSWER_SECONDS = 4.0  # a server that needs longer at the start counts as not answering
DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class Store:
    """An open store depends on nothing of MLflow's global state (active run, tracking URI)."""

    client: MlflowClient
    uri: str
    artifacts: Path | None  # where new experiments keep their files; None where a server decides

    def experiment(self, name: str) -> str:
        """Returns the id of an experiment, which is made if need be, with views that the links open.

        Raises:
            UserError: it was deleted in MLflow.
        """
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None if self.artifacts is None else (self.artifacts / name).as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=location, tags=view_tags()))
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"{name}: this experiment was deleted in MLflow, and its name is taken until it is purged. Restore it "
                f"(mlflow experiments restore -x {found.experiment_id}), purge it (mlflow gc --experiment-ids "
                f"{found.experiment_id}), both with MLFLOW_TRACKING_URI={printable(self.uri)}, "
                "or give registry.name=..."
            )
        for key, value in view_tags().items():
            if key not in found.tags:
                with suppress(MlflowException):  # a server may not let everybody write a view, which is no failure
                    self.client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Makes it MLflow's default store for the block: a registry in a database looks a models:/ source up there."""
        before = os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        try:
            yield
        finally:
            if before is None:
                del os.environ["MLFLOW_TRACKING_URI"]
            else:
                os.environ["MLFLOW_TRACKING_URI"] = before

    @property
    def ui(self) -> str:
        """Returns the address at which a browser finds the store; for the embedded one, while `aemodels ui` runs."""
        if address := os.environ.get("AEMODELS_MLFLOW_UI"):
            return address.rstrip("/")
        return printable(self.uri).rstrip("/") if self.uri.startswith("http") else f"http://127.0.0.1:{UI_PORT}"

    def pictures_url(self, experiment_id: str) -> str:
        """Returns the address of pictures, test metrics and curves of the trained models, side by side."""
        return self._link(f"experiments/{experiment_id}/runs", compareRunsMode="CHART", viewStateShareKey=PICTURES)

    def table_url(self, experiment_id: str) -> str:
        """Returns the address of all runs with their key settings and metrics."""
        return self._link(f"experiments/{experiment_id}/runs", viewStateShareKey=TABLE)

    def run_url(self, experiment_id: str, run_id: str) -> str:
        return self._link(f"experiments/{experiment_id}/runs/{run_id}")

    def compare_url(self, experiment_id: str, run_ids: Sequence[str]) -> str:
        """Returns the address of the comparison of some runs; the list of all hides their metrics by default."""
        query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
        return self._link("compare-runs", **query)

    def systems_url(self, experiment_id: str, run_id: str, name: str, metric: str, direction: str | None) -> str:
        """Returns the address of pictures, test metrics and curves of a comparison's systems, of which it makes a view.

        Where a server lets not everybody write a view, MLflow shows the page without it.
        """
        from mlflow.exceptions import MlflowException

        key, view = systems_view(run_id, name, metric, direction)
        with suppress(MlflowException):
            self.client.set_experiment_tag(experiment_id, TAG + key, view)
        return self._link(f"experiments/{experiment_id}/runs", compareRunsMode="CHART", viewStateShareKey=key)

    def registry_url(self, name: str, version: int | None = None) -> str:
        return self._link(f"models/{quote(name)}" + (f"/versions/{version}" if version is not None else ""))

    def _link(self, page: str, **query: str) -> str:
        """Returns the address of a page, with the mode for machine learning; else MLflow opens in its GenAI mode."""
        parts = [f"{key}={quote(text)}" for key, text in query.items()] + ["workflowType=machine_learning"]
        return f"{self.ui}/#/{page}?{'&'.join(parts)}"


def within_pages(url: str) -> str:
    """Returns the address of a page as a link on another one of MLflow's pages, wherever its server is."""
    return url[url.index("#") :]


def printable(uri: str) -> str:
    """Returns the URI without user and password."""
    scheme, separator, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{separator}{place.rpartition('@')[2]}{slash}{path}"


def _hide_password() -> None:
    """Moves a server's user and password to other variables of MLflow's, as an address gets into messages and tags."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        os.environ["MLFLOW_TRACKING_URI"] = printable(uri)


def open_store() -> Store:
    """Opens the store; the embedded one is made first where there is none.

    Raises:
        UserError: a server does not answer, or the store cannot be used.
    """
    _hide_password()
    uri = tracking_uri()
    quiet()
    scheme = urlsplit(uri).scheme.partition("+")[0]
    artifacts = store_folder() / "artifacts"
    if scheme in ("http", "https"):
        _wait_for_answer(uri)
        return Store(_client(uri), uri, None)
    if (file := sqlite_file(uri)) is not None:
        ensure_database(file, artifacts)
    elif scheme not in DATABASES:
        raise UserError(
            f"MLFLOW_TRACKING_URI={printable(uri)}: not a store that works here; give the address of an MLflow server "
            f"(http://...) or sqlite:///FILE, or unset it for {store_folder() / 'mlflow.db'}"
        )
    return Store(_client(uri), uri, artifacts)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        readable = _readable(uri)
        client = MlflowClient(readable, os.environ.get("MLFLOW_REGISTRY_URI") or readable)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # ImportError: of a database's driver
        raise in_words(error) or _unusable(uri, error) from error
    return client


def _readable(uri: str) -> str:
    """Returns the URI; for a database that this user may only read, one by which sqlite makes no files beside it."""
    file = sqlite_file(uri)
    if file is None or os.access(file, os.W_OK) or os.access(file.parent, os.W_OK):
        return uri
    with suppress(OSError):
        if file.with_name(f"{file.name}-wal").stat().st_size:  # another process writes to it, so its log counts
            return uri
    return f"sqlite+pysqlite:///{file.as_uri()}?immutable=1&uri=true"


def _unusable(uri: str, error: Exception) -> UserError:
    reason = without_secrets(str(error).strip().splitlines()[0])
    kind, remedy = UserError, "set MLFLOW_TRACKING_URI to the address of an MLflow server"
    if "out-of-date database schema" in reason:
        remedy = f"another release of MLflow wrote it: back it up and run `mlflow db upgrade {printable(uri)}`"
    elif "error code 401" in reason:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user of the server and the password"
    elif uri.startswith("sqlite") and isinstance(error, ImportError):
        remedy = "a library cannot be loaded: free memory, or install it again"
    elif uri.startswith("sqlite"):
        remedy = "move the damaged file away, or set AEMODELS_STORE to another folder"
    if is_outage(error):
        kind, remedy = UnreachableError, "start the database behind it, or whatever stands between"
    return kind(f"{printable(uri)}: cannot be used as MLflow's store ({reason[:200]}); {remedy}")


# ---- a server


def _wait_for_answer(uri: str) -> None:
    """Waits until the server answers, where any HTTP answer counts.

    It asks in a thread of its own, because nothing limits how long a name is looked up.
    """
    outcome: list[str] = []
    thread = threading.Thread(target=lambda: outcome.append(_ask(uri)), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    reason = outcome[0] if outcome else f"nothing within {ANSWER_SECONDS:g} seconds"
    if reason:
        raise UnreachableError(
            f"MLFLOW_TRACKING_URI={printable(uri)}: the MLflow server does not answer ({reason}). Start it, correct "
            "the address, or unset MLFLOW_TRACKING_URI to use the embedded store"
        )


def _ask(uri: str) -> str:
    """Returns why there is no answer; "" where there is one."""
    try:
        with urllib.request.urlopen(printable(uri).rstrip("/") + "/health", timeout=ANSWER_SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        certificate = "CERTIFICATE" in str(error.reason)  # MLflow has its own settings for certificates
        return "" if certificate else str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
