"""Defines what is measured of trials, and what is told of those that run together."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple


class Goals(NamedTuple):
    """Holds what is measured of a trial."""

    objectives: tuple[str, ...]  # measured on the trained model
    watched: str | None  # measured after every epoch, on the weights of that epoch


@dataclass(frozen=True)
class MemberStart:
    """A trial was taken."""

    index: int


@dataclass(frozen=True)
class MemberEpoch:
    """A trial passed over its images once; the receiver may answer True, and the trial stops."""

    index: int  # number of the trial among those that run together
    epoch: int  # from 1
    metrics: dict[str, float]  # as training has them: train/*, val/*
    value: float | None  # value of the metric that is watched
    seconds: float  # time that the trial has taken


@dataclass(frozen=True)
class MemberEnd:
    """A trial trained to its end, or failed; nothing is told of one that was stopped."""

    index: int
    metrics: dict[str, float]  # measured on the trained model, on all validation images
    seconds: float
    error: str = ""


TrialEvents = Generator[MemberStart | MemberEpoch | MemberEnd, bool | None, None]
