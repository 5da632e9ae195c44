"""Opens the storage of studies: optuna.db in the store for one machine, or a PostgreSQL database for several."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from aemodels.config import UnreachableError, UserError
from aemodels.runtime.environment import sqlite_uri, store_folder
from aemodels.runtime.files import in_words

SECONDS_FOR_OTHERS = 60  # how long to wait while others finish their write to the same sqlite file
LOCK, PRESENCE = 1634037103, 1634037104  # numbers of our advisory locks; each also has the id of a study
INTERRUPTED = "interrupted"  # an attribute of a trial
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry")  # errors that waiting does not mend
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)
# Heartbeats are compared as they are written, without a time zone. A silent or absent process loses its lock.
SESSION = (
    "-c timezone=UTC -c idle_in_transaction_session_timeout=120s "
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
)
CONNECTION = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def open_storage(url: str | None, folder: Path | None = None) -> RDBStorage:
    """Opens the shared database, or optuna.db in a folder (the store's, if none is given), with their tables.

    Raises:
        UserError: it is damaged, of another version of Optuna, no PostgreSQL database, or does not answer.
    """
    parsed = None if url is None else parse_url(url)
    try:
        return _embedded(folder or store_folder()) if parsed is None else _shared(parsed)
    except (SQLAlchemyError, OptunaError, RuntimeError, ImportError) as error:
        if parsed is None and (told := in_words(error)) is not None:
            raise told from error
        reason = str(error).partition("\n")[0]
        if parsed is None:
            raise UserError(f"the database of searches does not open ({reason}); move {_file()} away") from None
        refused = any(words in reason for words in REFUSALS)
        kind = UnreachableError if isinstance(error, OperationalError) and not refused else UserError
        reason = _without_secrets(reason, parsed)
        raise kind(f"the database of searches does not open ({reason}); check {printable(url)}") from None


def parse_url(url: str) -> URL:
    """Returns the URL of a shared database.

    Raises:
        UserError: it is not the URL of a PostgreSQL database.
    """
    with suppress(SQLAlchemyError, ValueError):
        if (parsed := make_url(url)).get_backend_name() in ("postgresql", "postgres"):
            return parsed.set(drivername="postgresql+psycopg")
    raise UserError(
        f"OPTUNA_STORAGE={printable(url)}: not a database that machines can share; give postgresql+psycopg://USER:"
        "PASSWORD@HOST/DATABASE, or unset it to search on this machine alone"
    )


def printable(url: str | None) -> str:
    """Returns the URL without secrets, which may also be among its options."""
    try:
        return make_url(url or "").set(query={}).render_as_string()
    except (SQLAlchemyError, ValueError):
        return "..."


def _without_secrets(reason: str, url: URL) -> str:
    secrets = [str(url.password or ""), *map(str, url.query.values())]
    for secret in filter(None, secrets):
        reason = reason.replace(secret, "***")
    return reason


def _file() -> str:
    return str(store_folder() / "optuna.db")


def _embedded(folder: Path) -> RDBStorage:
    """Opens optuna.db with write-ahead logging, with which a write takes 4 ms instead of 20 and survives kill -9."""
    path = folder / "optuna.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # two processes that create the tables at once would fail
        template = sqlite_uri(path).replace("{", "{{").replace("}", "}}")
        storage = RDBStorage(template, engine_kwargs={"connect_args": {"timeout": SECONDS_FOR_OTHERS}})
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return storage


def _shared(url: URL) -> RDBStorage:
    options = " ".join(filter(None, (str(url.query.get("options", "")), SESSION)))
    settings = {"pool_pre_ping": True, "connect_args": {**CONNECTION, "options": options}}
    engine = create_engine(url, **settings)
    try:
        with engine.connect() as connection:  # two processes that create the tables at once would fail
            advisory_lock(connection, "pg_advisory_xact_lock", LOCK, 0)
            template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
            return RDBStorage(template, engine_kwargs=settings)
    finally:
        engine.dispose()


def advisory_lock(connection: Connection, function: str, kind: int, study: int) -> bool:
    """Calls one of PostgreSQL's functions for advisory locks."""
    return bool(connection.execute(text(f"SELECT {function}(:kind, :study)"), {"kind": kind, "study": study}).scalar())
