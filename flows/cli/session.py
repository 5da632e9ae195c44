"""Does what all commands share: it reads settings, says what went wrong, and sets up the environment.

Nothing heavy is imported before it is needed, so that help answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from flows.cli.exit_codes import FAILED, INTERRUPTED, MENDABLE

if TYPE_CHECKING:
    from aemodels.settings import Settings

SERVER_BYTES = 2 * 2**20  # room on the disk for the database of Prefect's own server
BUSY = 0.5  # the machine is busy when others use this many cores: then threads should not spin


@contextmanager
def answering(verbose: bool, computes: bool = False) -> Iterator[None]:
    """Runs the body of a command with quiet libraries, and turns errors into plain words and exit codes.

    The exit codes are those of exit_codes.py.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    from aemodels.config import UserError
    from aemodels.runtime.environment import give_libraries_a_home
    from aemodels.runtime.files import at_path

    try:
        with at_path(), warnings.catch_warnings():  # what is set for messages ends with the command
            _set_environment(verbose)
            _set_messages(verbose)
            give_libraries_a_home()
            if computes:
                _set_waiting()
            from flows.leftovers import end_leftovers, mark_own

            end_leftovers()
            mark_own()
            yield
    except UserError as error:
        if verbose and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        _fail(f"error: {error}", MENDABLE)
    except KeyboardInterrupt:
        _fail("interrupted; give the same command again, and it goes on where it was", INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        _fail(f"failed: {type(error).__name__}: {error}\n(give -v to see where)", FAILED)


def note(message: str) -> None:
    """Prints on standard error what a person should know of a result; standard output holds the result alone."""
    tell(f"note: {message}")


def tell(message: str) -> None:
    """Prints a line beside the result, on standard error, as it is."""
    from aemodels.texts import visible

    typer.echo(visible(message), err=True)


def check_file(out: Path, suffix: str) -> None:
    """Checks, before any work, that a file can be written under exactly the name that a person gave.

    Raises:
        UserError: the name has another ending, or nothing can be written there.
    """
    from aemodels.config import UserError

    folder = Path(os.path.realpath(out)).parent
    if not out.name.lower().endswith(suffix):
        raise UserError(f"-o {out}: the name must end in {suffix}")
    if not folder.is_dir():
        raise UserError(f"-o {out}: there is no folder {folder}; make it first")
    if out.is_dir():
        raise UserError(f"-o {out}: there is a folder of this name; give another name")
    if not os.access(folder, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        raise UserError(f"-o {out}: it cannot be written; give another name, or change its permissions")


def check_folder(out: Path) -> None:
    """Checks, before any work, that files can be written in the folder that a person named; it may not exist yet.

    Raises:
        UserError: there is a file of that name, or nothing can be written there.
    """
    from aemodels.config import UserError

    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"-o {out}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"-o {out}: {there} cannot be written to; give another folder, or change its permissions")


def under_prefect() -> bool:
    """Tells whether there is a Prefect server, under which the work then runs as flows.

    Raises:
        UserError: it does not answer.
    """
    reach_prefect()
    return bool(os.environ.get("PREFECT_API_URL"))


def reach_prefect() -> None:
    """Asks Prefect's server, where one is given, for its version, which needs the right address and password.

    Raises:
        UserError: it does not answer.
    """
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return
    from prefect import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from aemodels.config import UserError

    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            client.api_version()
    except Exception as error:  # it comes from httpx, from Prefect, or from a page that is no JSON
        reason = str(error).partition("\n")[0]
        remedy = "Start it, correct the address (it ends in /api), or unset PREFECT_API_URL to do without"
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            remedy = "Set PREFECT_API_AUTH_STRING to its user and password, USER:PASSWORD"
        raise UserError(f"PREFECT_API_URL={address}: the Prefect server does not answer ({reason}). {remedy}") from None


def let_prefect_start() -> None:
    """Checks, where no server is given, that Prefect can start one for a while; its own errors are pages long.

    Raises:
        UserError: its home cannot be written to, or a server that is given does not answer.
    """
    reach_prefect()
    if not os.environ.get("PREFECT_API_URL"):
        from prefect.settings import get_current_settings

        from aemodels.config import UserError
        from aemodels.runtime.files import require_room

        home = get_current_settings().home
        if "?" in str(home):  # Prefect would keep its database in a file whose name ends before it
            raise UserError(f"PREFECT_HOME={home}: Prefect cannot work in a path with a ?; set it to another folder")
        require_room(home, SERVER_BYTES)


def read_settings(
    changes: list[str] | None,
    preset: list[str] | None,
    config: Path | None,
    start: Mapping[str, Any] | None = None,
) -> Settings:
    """Reads the settings from the defaults, `start`, presets, a file and single changes; later ones win."""
    from aemodels.settings import load_settings, read_changes

    return load_settings(read_changes(changes or []), preset, config, start)


def keep_given(settings: Settings, changes: list[str] | None) -> Settings:
    """Keeps fixed in a search what a person gave at the command line."""
    from aemodels.settings import read_changes
    from aemodels.tuning.space import keeping

    tuning = keeping(settings.experiment, settings.tuning, read_changes(changes or []))
    return settings.model_copy(update={"tuning": tuning})


def start_for(json: bool) -> dict[str, Any]:
    """Returns what settings start from: a machine that reads JSON gets a quick evaluation, unless a level is given."""
    return {"evaluation": {"level": "quick"}} if json else {}


def model_first(arguments: list[str]) -> tuple[str, list[str]]:
    """Splits arguments into the model's reference, "" if there is none, and the settings."""
    given = bool(arguments) and "=" not in arguments[0]
    return (arguments[0], arguments[1:]) if given else ("", arguments)


def read_evaluation_settings(
    changes: list[str] | None,
    preset: list[str] | None,
    config: Path | None,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads, nested, what is to differ from the settings that a trained model has: what is given, and no defaults.

    The sections of presets and files that say nothing about an evaluation are left out.
    """
    from aemodels.settings import Settings, join_files, merged, read_changes

    others = Settings.model_fields.keys() - {"data", "evaluation"}
    found = {name: section for name, section in join_files(preset, config).items() if name not in others}
    return merged(merged(start or {}, found), read_changes(changes or []))


def _set_environment(verbose: bool) -> None:
    """Sets variables that libraries read when they are imported; those that the person has set stay."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    level = "INFO" if verbose else "CRITICAL"
    defaults |= {"PREFECT_LOGGING_LEVEL": level, "MLFLOW_LOGGING_LEVEL": level}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _set_messages(verbose: bool) -> None:
    """Hides the warnings of libraries, and the traces of metrics and figures that failed, unless -v is given.

    A person who trains a model can do nothing about them. Warnings of this project's own are notes.
    """
    from aemodels.config import OwnWarning

    others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, OwnWarning):
            note(str(message))
        else:
            others(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("aemodels").setLevel(logging.INFO)
    else:
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", OwnWarning)
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for the processes that the command starts


def _set_waiting() -> None:
    """Sets how torch's threads wait for each other, by variables that torch reads when it is imported.

    Where cores are free they spin for some microseconds: training is twice as fast as with threads that sleep. Where
    others compute, threads that spin starve each other: three times slower than with threads that sleep, and ten times
    with libgomp's own spinning (article VAE, 2 cores).
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return
    import psutil

    used = psutil.cpu_percent(interval=0.1) / 100 * (psutil.cpu_count() or 1)  # cores
    name, value = ("GOMP_SPINCOUNT", "10000") if used < BUSY else ("OMP_WAIT_POLICY", "passive")
    os.environ[name] = value


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    from aemodels.runtime.secrets import without_secrets

    for line in without_secrets(message).split("\n"):
        tell(line)
    raise typer.Exit(code)
