"""Says what a result was made with: the versions of packages, the commit, and whose process it was."""

from __future__ import annotations

import getpass
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("aemodels", "torch", "torchvision", "numpy", "scikit-learn", "mlflow", "prefect", "optuna")


def standard_tags(seed: int, device: str) -> dict[str, str]:
    """Returns what made the result: seed, device, versions, and the commit where the code is a git checkout."""
    found = {"python": platform.python_version()} | versions()
    packages = ", ".join(f"{name} {number}" for name, number in found.items())  # one tag: the page shows them all
    return {"seed": str(seed), "device": device, "versions": packages} | _commit()


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that make a result."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def user_name() -> str:
    """Returns the name of the user whose process this is."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def origin() -> dict[str, str]:
    """Returns the tags that MLflow's UI shows as user and source."""
    return {"mlflow.user": user_name(), "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}


@cache
def _commit() -> dict[str, str]:
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return {}
    try:
        commit = _git(checkout, "rev-parse", "HEAD").strip()
        changed = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(changed).lower()}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
