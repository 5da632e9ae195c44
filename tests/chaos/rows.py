"""Keeps the rows of the faults, one file each while the suite runs, and makes the table of all of them."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from chaos.plan import PARTS, Fault, plan
from chaos.sites import Run, Site
from places import ROOT

RESULTS = ROOT / "benchmarks" / "results"
COMMAND = "make test-chaos"
ABOUT = """\
Recovery is from the fault to the first new sign of work in MLflow (a metric, a run, a model, a decision), of the
slowest run that the fault hit; it includes the seconds that the fault lasted. A run is as it should be if it ended by
itself with one version and at most one champion, was started again once for a death of its process, tracked every
metric once, left nothing running, pending, locked or half written, and has the weights of a run to which nothing
happened.
""".splitlines()


@dataclass
class Row:
    """A row tells what a fault was, and what happened after it."""

    number: int
    part: str
    kind: str
    planned: str
    """Flow and stage."""
    hit: list[str]
    """The stage that each run was in."""
    runs: list[str]
    seconds: float
    """That the fault lasted; 0 for a kill."""
    recovery: float | None
    """Seconds from the fault to the first new sign of work; of the slowest run."""
    restarts: list[int]
    versions: list[int]
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        fault: Fault,
        hit: list[str],
        seconds: Sequence[float],
        wrong: list[str],
        site: Site | None = None,
        runs: Sequence[Run] = (),
    ) -> Row:
        """Returns the row of a fault on these runs."""
        counted = "SELECT count(*) FROM model_versions WHERE name = ?"
        return cls(
            number=fault.number,
            part=fault.part,
            kind=fault.kind,
            planned=f"{fault.flow}, {fault.stage}",
            hit=hit,
            runs=[f"{run.flow} {run.name}" for run in runs],
            seconds=fault.seconds,
            recovery=round(max(seconds), 1) if seconds else None,
            restarts=[site.restarts(run) for run in runs] if site else [],
            versions=[int(site.records.mlflow(counted, run.name)[0][0]) for run in runs] if site else [],
            wrong=wrong,
        )


class Rows:
    """Keeps the rows of one commit and seed as files, since the suite may run in parts and go on later."""

    def __init__(self, seed: int) -> None:
        self.seed, self.commit = seed, commit()
        self.folder = ROOT / "build" / "chaos" / f"{self.commit}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._alone = threading.Lock()

    def has(self, fault: Fault) -> bool:
        """Tells whether the fault has its row."""
        return self._file(fault.number).exists()

    def keep(self, row: Row) -> None:
        """Adds the row, and writes the table anew."""
        with self._alone:  # faults are inflicted from several threads
            self._file(row.number).write_text(json.dumps(asdict(row), indent=1))
            self.write()

    def read(self) -> list[Row]:
        """Returns all rows so far."""
        return [Row(**json.loads(path.read_text())) for path in sorted(self.folder.glob("[0-9]*.json"))]

    def write(self) -> None:
        """Writes the table: beside the rows, and under benchmarks/results/ once every fault has its row."""
        rows = self.read()
        whole = {row.number for row in rows} == {fault.number for fault in plan(self.seed)}
        place = RESULTS if whole else self.folder
        head = {
            "commit": self.commit,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
            "seed": self.seed,
            "command": COMMAND,
        }
        everything = {**head, **figures(rows), "rows": [asdict(row) for row in rows]}
        (place / "chaos.json").write_text(json.dumps(everything, indent=1) + "\n")
        (place / "chaos.md").write_text(as_markdown(head, rows))

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:02d}.json"


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Returns the numbers of faults, and the times to recovery."""
    seconds = [row.recovery for row in rows if row.recovery is not None]
    return {
        "faults": len(rows),
        "as they should be": sum(not row.wrong for row in rows),
        "runs": sum(len(row.runs) for row in rows),
        "median seconds to recovery": round(statistics.median(seconds), 1) if seconds else 0.0,
        "most seconds to recovery": max(seconds, default=0.0),
    }


def as_markdown(head: dict[str, object], rows: Sequence[Row]) -> str:
    """Returns the table for people."""
    lines = ["# Faults on purpose, and what became of the runs", ""]
    lines += [f"{key}: {value}  " for key, value in {**head, **figures(rows)}.items()]
    lines += ["", *ABOUT]
    columns = ["#", "fault", "planned in", "hit", "lasted, s", "recovery, s", "restarts", "versions", "as it should be"]
    for part in PARTS:
        own = [row for row in rows if row.part == part]
        if not own:
            continue
        lines += ["", f"## {part}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in own]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    many = [", ".join(map(str, values)) for values in (row.hit, row.restarts, row.versions)]
    seconds = f"{row.seconds:g}" if row.seconds else ""
    recovery = "" if row.recovery is None else f"{row.recovery:.1f}"
    wrong = "; ".join(row.wrong).replace("|", "/").replace("\n", " ") or "yes"
    return [str(row.number), row.kind, row.planned, many[0], seconds, recovery, many[1], many[2], wrong]


def commit() -> str:
    """Returns the commit; a mark says that files other than results differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short=12", "HEAD") + ("-changed" if changed else "")


def hardware() -> str:
    """Returns processor, cores and memory."""
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
