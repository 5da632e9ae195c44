"""Inflicts faults on commands that use the embedded store, without any server."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.faults import disk_fault, process_fault
from chaos.plan import Fault
from chaos.races import race
from chaos.rows import Row, Rows
from chaos.running import run_part
from chaos.sites import Embedded
from chaos.verdict import Undisturbed

pytestmark = pytest.mark.chaos
Alone = dict[str, Undisturbed]


def test_embedded_processes(embedded: Embedded, rows: Rows, alone: Alone) -> None:
    run_part("embedded-processes", rows, lambda fault: process_fault(embedded, fault, alone), at_once=3)


def test_embedded_disk(embedded: Embedded, rows: Rows, alone: Alone, disk: Path) -> None:
    def full(fault: Fault) -> Row:
        site = Embedded(embedded.folder, disk / fault.name)
        site.store.mkdir()
        return disk_fault(site, fault, alone, site.store)

    run_part("embedded-disk", rows, full)


def test_embedded_races(embedded: Embedded, rows: Rows) -> None:
    run_part("embedded-races", rows, lambda fault: race(embedded, fault), at_once=2)
