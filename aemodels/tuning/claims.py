"""Keeps claims, which say which trials of a study this process may work on.

In a shared database a process holds a lease on each trial, which it renews. Another process that finds that a lease ran
out fails the trial and records its parameters once more, as another row. The row is what was claimed: so a process
that slept meanwhile finds its row ended and cannot write into what others do.

Nothing depends on a lock being held, as a process that is suspended may hold one. Locks only avoid double work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from aemodels.tuning.storage import DATABASE_ERRORS, INTERRUPTED, LOCK, PRESENCE, advisory_lock

LEASE_SECONDS = 60  # a process that was silent for so long counts as dead, asleep or cut off
BEAT_SECONDS = 10  # how often a lease is renewed; it is also renewed after every epoch
HUNG_SECONDS = 6 * 3600  # a process that ends no epoch for so long does not work, whatever its threads say


class Claims:
    """Holds the trials that this process runs, in a study that no other process works on.

    The lock of the run's folder proves that this process is alone.
    """

    def __init__(self, storage: RDBStorage, study: int) -> None:
        self.storage, self.study = storage, study
        self.rows: set[int] = set()  # Optuna's ids

    def recover(self) -> None:
        """Marks as interrupted what a process that has ended left running."""
        for row in self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.RUNNING,)):
            if row._trial_id not in self.rows:
                self._fail(row._trial_id)

    def claim(self, row: int) -> bool:
        """Claims a trial for this process; it tells whether the trial was waiting."""
        try:
            claimed = self.storage.set_trial_state_values(row, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if claimed:
            self.rows.add(row)
        return claimed

    def renew(self, row: int) -> bool:
        """Renews this process's claim on a trial; it tells whether the trial is still this process's."""
        return True

    def release(self) -> None:
        """Gives back what this process still runs, as interrupted."""
        while self.rows:
            self._fail(self.rows.pop())

    def _fail(self, row: int) -> None:
        with suppress(UpdateFinishedTrialError):  # another process failed it at the same moment
            self.storage.set_trial_user_attr(row, INTERRUPTED, True)  # it stays so, whatever its process still writes
            self.storage.set_trial_state_values(row, TrialState.FAIL)

    # ---- the others

    def alone(self) -> AbstractContextManager[None]:
        """Returns a context manager; while its block runs, no other process is in such a block."""
        return nullcontext()

    def arrive(self) -> None:
        """Announces that this process works on the study from now on."""

    def leaving(self) -> AbstractContextManager[bool]:
        """Returns a context manager, which tells whether no other process works on the study.

        None arrives while the block runs, if arriving processes do so within `alone`.
        """
        return nullcontext(True)

    def close(self) -> None:
        """Closes the storage, after which nothing follows."""
        self.storage.engine.dispose()


class Leases(Claims):
    """Holds the trials that this process runs beside others; the clock is that of the database."""

    def __init__(self, storage: RDBStorage, study: int) -> None:
        super().__init__(storage, study)
        storage.heartbeat_interval, storage.grace_period = BEAT_SECONDS, LEASE_SECONDS
        self.heard = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._presence: Connection | None = None

    def recover(self) -> None:
        for row in self.storage._get_stale_trial_ids(self.study):
            self._fail(row)

    def claim(self, row: int) -> bool:
        self.heard = time.monotonic()
        self.storage.record_heartbeat(row)  # before the claim, as a running trial without one would never be found
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
            self._thread.start()
        return super().claim(row)

    def renew(self, row: int) -> bool:
        self.heard = time.monotonic()
        self.storage.record_heartbeat(row)
        if self.storage.get_trial(row).state != TrialState.RUNNING:
            self.rows.discard(row)
        return row in self.rows

    def _beat(self) -> None:
        """Renews the leases, as an epoch, or what precedes the first one, may take longer than a lease."""
        while not self._ended.wait(BEAT_SECONDS):
            if time.monotonic() - self.heard < HUNG_SECONDS:
                with suppress(*DATABASE_ERRORS):  # the next beat may reach it
                    for row in tuple(self.rows):
                        self.storage.record_heartbeat(row)
        self.storage.remove_session()

    @contextmanager
    def alone(self) -> Iterator[None]:
        connection = self.storage.engine.connect()
        try:
            advisory_lock(connection, "pg_advisory_xact_lock", LOCK, self.study)
            yield
        finally:
            with suppress(SQLAlchemyError):  # the server ends a connection that sleeps too long
                connection.close()

    def arrive(self) -> None:
        self._presence = self.storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        advisory_lock(self._presence, "pg_advisory_lock_shared", PRESENCE, self.study)

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self.alone())
                last = self._leave()
            except DATABASE_ERRORS:
                last = False  # whether it was the last is not known
            yield last

    def _leave(self) -> bool:
        if self._presence is None:
            return False
        advisory_lock(self._presence, "pg_advisory_unlock_shared", PRESENCE, self.study)
        last = advisory_lock(self._presence, "pg_try_advisory_lock", PRESENCE, self.study)
        return last and advisory_lock(self._presence, "pg_advisory_unlock", PRESENCE, self.study)

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._presence is not None:
            with suppress(SQLAlchemyError):
                self._presence.close()
        super().close()
