"""Plans the faults from one seed: which there are, how many, and in which stage of which run each comes."""

from __future__ import annotations

import random
from typing import NamedTuple

from chaos.records import STAGES

SEED = 16
LANES = 4  # runs of a team at a time
TRAINING = ("prepare", "training", "judging", "registration")  # the stages of a training alone
TAKEN_FOR_DEAD = "SIGSTOP, SIGCONT after it was taken for dead"


class Fault(NamedTuple):
    """A fault comes after `delay`, a share of a stage's usual length."""

    number: int
    part: str  # of the suite: a test
    kind: str
    flow: str
    stage: str
    delay: float
    seconds: float = 0.0  # that it lasts, where it lasts
    attempt: int = 0  # to hit the stage, which may be over before it is seen

    @property
    def name(self) -> str:
        """Returns the name under which the fault's runs are registered."""
        return f"chaos-{self.number:02d}" + (f"-{self.attempt}" if self.attempt else "")


class MissedError(Exception):
    """The fault came in another stage than the planned one; `wrong` is what its runs left behind."""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__("the stage was over before it was seen")
        self.wrong = wrong


PARTS = (
    "team-processes",
    "team-worker",
    "team-servers",
    "team-disk",
    "team-races",
    "embedded-processes",
    "embedded-disk",
    "embedded-races",
)


def plan(seed: int = SEED) -> list[Fault]:
    """Returns all faults, in the order of their numbers."""
    draw = random.Random(seed)
    faults: list[Fault] = []

    def add(part: str, kind: str, flow: str, stage: str, low: float = 0.0, high: float = 0.0) -> None:
        seconds = round(draw.uniform(low, high), 1)
        faults.append(Fault(len(faults) + 1, part, kind, flow, stage, round(draw.random(), 3), seconds))

    for stage in STAGES:
        add("team-processes", "SIGKILL", "pipeline", stage)
        add("team-processes", "SIGSTOP, SIGCONT", "pipeline", stage, 5, 25)
    for stage in TRAINING:
        add("team-processes", "SIGKILL", "train", stage)
        add("team-processes", "SIGSTOP, SIGCONT", "train", stage, 5, 25)
    add("team-processes", "SIGKILL", "train", "registration")
    add("team-processes", "SIGKILL", "pipeline", "registration")
    add("team-processes", "SIGKILL", "train", "training")
    for stage in ("search", "training"):
        add("team-worker", "SIGKILL of the worker alone", "pipeline", stage)
        add("team-worker", "SIGKILL of the worker and all it started", "pipeline", stage)
    add("team-worker", "SIGSTOP of the worker", "pipeline", "training", 30, 30)
    add("team-worker", "SIGTERM of the worker", "pipeline", "training")
    for server in ("MLflow", "Prefect"):
        add("team-servers", f"{server}: SIGKILL, started again", "pipeline", "training")
        add("team-servers", f"{server}: SIGKILL, started again", "pipeline", "registration")
        add("team-servers", f"{server}: stopped, started again", "pipeline", "search")
        add("team-servers", f"{server}: away", "pipeline", "training", 60, 60)
        add("team-servers", f"{server}: away", "train", "judging", 60, 60)
    for _ in range(2):
        add("team-servers", "Prefect: stopped, started again", "train", "start")
    add("team-servers", "PostgreSQL: stopped at once, started again", "pipeline", "search", 3, 3)
    add("team-servers", "PostgreSQL: stopped at once, started again", "pipeline", "training", 10, 10)
    for stage in ("training", "registration"):
        add("team-disk", "the disk is full", "train", stage, 15, 15)
        add("embedded-disk", "the disk is full", "train", stage, 5, 5)
    for part in ("team-races", "embedded-races"):
        for _ in range(2):
            add(part, "two promotions at once, one killed", "promote", "gate")
    for stage in STAGES:
        add("embedded-processes", "SIGKILL", "pipeline", stage)
    for stage in TRAINING:
        add("embedded-processes", "SIGKILL", "train", stage)
        add("embedded-processes", "SIGSTOP, SIGCONT", "train", stage, 3, 10)
    for stage in ("search", "registration", "gate"):
        add("embedded-processes", "SIGSTOP, SIGCONT", "pipeline", stage, 3, 10)
    for server in ("MLflow", "Prefect", "PostgreSQL"):
        add("team-servers", f"{server}: SIGSTOP, SIGCONT", "pipeline", "training", 20, 20)
    for flow in ("train", "pipeline"):
        add("team-processes", TAKEN_FOR_DEAD, flow, "training", 150, 150)
    return faults
