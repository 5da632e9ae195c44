"""Opens the study of a search: of this machine's store, of a folder, or in a database that machines share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from aemodels.tuning.claims import Leases
from aemodels.tuning.storage import open_storage
from aemodels.tuning.study import FINISHED, Study
from aemodels.tuning.task import Task


def open_study(name: str, task: Task, folder: Path | None = None) -> Study:
    """Opens the study of that name in this store or folder, as it stands, or a new one, for this process alone.

    Raises:
        SettingsError: the search space does not fit the experiment.
        UserError: the database is damaged, or of another version of Optuna.
    """
    return Study(name, task, open_storage(None, folder))


def forget_study(name: str, folder: Path | None = None) -> None:
    """Deletes the study of that name in this store or folder, if there is one; no process may work on it.

    Raises:
        UserError: as `open_study`.
    """
    storage = open_storage(None, folder)
    with suppress(KeyError):
        storage.delete_study(storage.get_study_id_from_name(name))
    storage.engine.dispose()


# (a finished study, its run, whether there is a newer one) -> whether the asker still awaits its result
Owed = Callable[[str, str, bool], bool]


def join_study(names: Iterable[str], task: Task, url: str, owed: Owed) -> Study:
    """Opens the study in a shared database to work on beside other processes.

    That is the first of the names that is not finished, or a new one. But finished ones whose result is `owed` to the
    asker come first.

    Raises:
        SettingsError: the search space does not fit the experiment.
        UserError: the database is of another version of Optuna, no PostgreSQL database, or does not answer.
    """
    storage = open_storage(url)
    return Study(_chosen(storage, names, owed), task, storage, Leases)


def _chosen(storage: RDBStorage, names: Iterable[str], owed: Owed) -> str:
    finished: dict[str, str] = {}  # name -> run
    for name in names:
        notes = _notes(storage, name)
        if notes is None or FINISHED not in notes:
            break
        finished[name] = notes[FINISHED]
    newest = next(reversed(finished), None) if notes is None else name
    return next((known for known, run in finished.items() if owed(known, run, known != newest)), name)


def _notes(storage: RDBStorage, name: str) -> dict[str, Any] | None:
    """Returns the notes of a study; None where there is no such study yet."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return None
