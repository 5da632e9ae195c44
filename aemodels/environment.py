"""What the machine decides and no experiment: folders, addresses, the device. All of it from the environment.

AEMODELS_DATA    where data sources lie or are downloaded to      default: data/ in the cache folder
AEMODELS_CACHE   prepared arrays and feature networks             default: ~/.cache/aemodels
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
from pathlib import Path

# What the names of such variables end in.
SECRETS = ("PASSWORD", "TOKEN", "SECRET", "AUTH_STRING", "ACCESS_KEY", "SECRET_KEY", "API_KEY")
SHORTEST_SECRET = 4  # characters; shorter ones would be found in ordinary words


def cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return _folder("AEMODELS_CACHE", base / "aemodels")


def data_root() -> Path:
    return _folder("AEMODELS_DATA", cache_folder() / "data")


def store_folder() -> Path:
    """The same folder wherever a command is called from, as long as it is called from the same checkout's install."""
    checkout = Path(__file__).resolve().parents[1]
    base = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return _folder("AEMODELS_STORE", base / "mlruns")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str | None:
    return os.environ.get("AEMODELS_DEVICE") or None


def search_database() -> str | None:
    """The URL of the database that searches share with other machines; it may hold a password."""
    return os.environ.get("OPTUNA_STORAGE") or None


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


def without_secrets(text: str) -> str:
    """The text without users and passwords in addresses, and without what the environment keeps secret."""
    text = re.sub(r"(\w://)[^\s/]*@", r"\1", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        in_address = re.search(r"\w://[^\s/:]*:(\S*)@", value)  # to the last @: a password may hold a slash
        secret = value if name.upper().endswith(SECRETS) else in_address[1] if in_address else ""
        if len(secret) >= SHORTEST_SECRET:
            yield secret


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the file, then renames: whoever reads sees the old or the new one, also after a power cut."""
    partial = path.with_suffix(".partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
