"""Writes and reads the file of a run: the machine, the versions, every measurement, and what follows from them."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT
from benchmarks.rows.row import Repeat, Row, ratios, summary

FOLDER = ROOT / "benchmarks" / "results"
# Variables that change such timings.
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS", "KMP_BLOCKTIME")

Result = dict[str, Any]


def new(about: Result, arguments: Sequence[str]) -> Result:
    """Returns the result of a run that has no rows yet, of a command with these arguments."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--out")  # it is left out: a path of this machine, on which no number depends
    _, measuring = own.parse_known_args(arguments)
    return {
        **origin(measuring),
        **about,
        "data": {name: about["data"][name] for name in ("name", "digest", "sizes")},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "rows": {},
    }


def origin(arguments: Sequence[str], module: str = "benchmarks") -> Result:
    """Returns the time, the command and the commit of a run."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": ["python", "-m", module, *arguments],
        "commit": _commit(),
    }


def row_result(row: Row, repeats: Sequence[Repeat], skipped: dict[str, str], failed: dict[str, str]) -> Result:
    """Returns what a row came to: summary, ratios, findings and every measurement."""
    runs = [
        {"turn": turn, "contender": name, **measured}
        for turn, repeat in enumerate(repeats, start=1)
        for name, measured in repeat.items()
    ]
    whole = [repeat for repeat in repeats if repeat]
    return {
        "title": row.title,
        "work": row.work,
        "unit": row.unit,
        "settings": {name: value for name, value in row.settings.items() if name != "folder"},
        "contenders": list(row.contenders),
        "ours": row.ours,
        "summary": summary(row, whole),
        "ratios": ratios(row, whole),
        "findings": row.findings(whole) if whole else {},
        "skipped": skipped,
        "failed": failed,
        "runs": runs,
    }


def add_shares(result: Result) -> None:
    """Adds to each training how much of the machine's own matrix product it reaches."""
    machine = result["rows"].get("matmul", {})
    if not machine.get("runs"):
        return
    peak = machine["summary"]["matmul"]["max"]  # the best turn shows what the machine can do when it is left alone
    for preset, flops in machine["runs"][0]["flops_per_image"].items():
        row = result["rows"].get(preset)
        if row is not None:
            rates = {name: numbers["median"] * flops for name, numbers in row["summary"].items()}
            row["findings"] |= {
                "flops_per_second": rates,
                "share_of_peak": {name: rate / peak for name, rate in rates.items()},
            }


def free_file(result: Result) -> Path:
    """Returns benchmarks/results/<hardware>-<date>.json; another run of the same day gets a number."""
    hardware = result["hardware"]
    name = hardware.get("gpu") or f"{hardware['cpu']} {hardware['cores']} cores"
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)", "", name).lower()).strip("-")
    stem = f"{slug}-{result['started'][:10]}"
    numbered = (FOLDER / (f"{stem}.json" if i == 1 else f"{stem}-{i}.json") for i in count(1))
    return next(path for path in numbered if not path.exists())


def write(file: Path, result: Result) -> None:
    """Writes the file whole; it is called after every row, so that an interrupted run keeps what it has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(file)


def read(file: Path) -> Result:
    """Reads the result of an earlier run.

    Raises:
        ValueError: the file holds no such result.
    """
    result: Result = json.loads(file.read_text())
    if not isinstance(result, dict) or not {"hardware", "versions", "rows"} <= result.keys():
        raise ValueError("no result of these benchmarks")
    return result


def _commit() -> str:
    """Returns the checkout's commit; "" without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
