"""Reads from the environment what the machine decides and no experiment: folders, addresses, the device.

AEMODELS_DATA    where data sources lie or are downloaded to      default: data/ in the cache folder
AEMODELS_CACHE   prepared arrays, their features and classifiers   default: ~/.cache/aemodels
AEMODELS_STORE   the embedded store: MLflow, Optuna, run folders  default: mlruns/ of the checkout, else of this folder
AEMODELS_DEVICE  cpu, cuda, cuda:1, mps                           default: the best there is
AEMODELS_MLFLOW_UI  where browsers find MLflow's pages         default: MLFLOW_TRACKING_URI
OPTUNA_STORAGE   a PostgreSQL database, in which any number of machines work on the same searches:
                 postgresql+psycopg://USER:PASSWORD@HOST/DATABASE   default: optuna.db in the embedded store
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from aemodels.config import UserError

# These variables name folders of libraries, which otherwise write below the home folder.
HOMES = {"MPLCONFIGDIR": "matplotlib", "PREFECT_HOME": "prefect", "TORCH_HOME": "torch"}


def cache_folder() -> Path:
    return _folder("AEMODELS_CACHE", _default_cache)


def data_root() -> Path:
    return _folder("AEMODELS_DATA", lambda: cache_folder() / "data")


def store_folder() -> Path:
    """Returns the store's folder, the same wherever a command of the same checkout's install is called from."""
    return _folder("AEMODELS_STORE", _default_store)


def folders() -> dict[str, Path]:
    """Returns the folders that are written to, by the variables that name them."""
    found: dict[str, Path] = {}
    places = {"AEMODELS_STORE": store_folder, "AEMODELS_CACHE": cache_folder}
    if os.environ.get("AEMODELS_DATA"):  # otherwise it is in the cache
        places = {"AEMODELS_DATA": data_root, **places}
    for variable, folder in places.items():
        with suppress(UserError):  # where a folder is may be impossible to tell; then it is left out
            found[variable] = folder()
    return found


def make_whole() -> None:
    """Writes the folders into the environment as whole paths, for processes that start in another folder."""
    for variable, folder in folders().items():
        os.environ[variable] = str(folder)
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    file = sqlite_file(tracking)
    if file is not None and not re.match(r"[^/]*///(file:)?/", tracking):
        os.environ["MLFLOW_TRACKING_URI"] = sqlite_uri(file)


def tracking_uri() -> str:
    """Returns MLFLOW_TRACKING_URI, or the embedded store's address, by which other programs find the same models."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(store_folder() / "mlflow.db")


def databases() -> Iterator[Path]:
    """Yields the files of sqlite that this process may work with."""
    tracking = sqlite_file(tracking_uri())
    if tracking is not None:
        yield tracking
    yield store_folder() / "optuna.db"


def sqlite_uri(file: Path) -> str:
    """Returns the file's address for SQLAlchemy, which would end a plain path at a question mark."""
    if "?" not in str(file):
        return f"sqlite:///{file.as_posix()}"
    return f"sqlite+pysqlite:///{file.as_uri()}?uri=true"  # MLflow would make folders for one without a driver


def sqlite_file(uri: str) -> Path | None:
    """Returns the file of an sqlite address; None for another address."""
    match = re.match(r"sqlite(?:\+\w+)?:///(file:)?([^?]+)", uri)
    return match and Path(unquote(match[2]) if match[1] else match[2]).absolute()


def give_libraries_a_home() -> None:
    """Lets matplotlib, Prefect and torch keep their files in the cache where this user has no home to write to.

    What the person has set stays. A user without a home folder gets one there, for all that asks for it.

    Raises:
        UserError: there is no home and no AEMODELS_CACHE.
    """
    home = _home()
    if home is not None and os.access(home, os.W_OK | os.X_OK):
        return
    place = cache_folder() / "home"
    place.mkdir(parents=True, exist_ok=True)
    for variable, name in HOMES.items():
        os.environ.setdefault(variable, str(place / name))
    if home is None:
        os.environ["HOME"] = str(place)


def cores() -> int:
    """Returns how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str | None:
    return os.environ.get("AEMODELS_DEVICE") or None


def search_database() -> str | None:
    """Returns the URL of the database that searches share with other machines; it may hold a password."""
    return os.environ.get("OPTUNA_STORAGE") or None


def _folder(variable: str, default: Callable[[], Path]) -> Path:
    given = os.environ.get(variable)
    try:
        return Path(given).expanduser().resolve() if given else default().resolve()
    except (RuntimeError, FileNotFoundError) as error:  # no home; or the current folder was deleted
        told = f"{variable}={given}" if given else f"{variable} is not set"
        raise UserError(f"{told}: {str(error).rstrip('.')}; set it to the whole path of a folder") from None


def _default_cache() -> Path:
    """Returns the cache below the home folder on every system; platformdirs would move that of macOS and Windows."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "aemodels"


def _default_store() -> Path:
    checkout = Path(__file__).resolve().parents[2]
    return (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "mlruns"


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry for this user
        return None
