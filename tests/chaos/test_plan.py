"""Tests the plan of faults, and the table of their rows."""

from __future__ import annotations

import json

import pytest
from chaos.plan import PARTS, plan
from chaos.records import STAGES, Signs
from chaos.rows import RESULTS, Row, as_markdown


def test_a_seed_is_a_plan_of_at_least_sixty_faults() -> None:
    faults = plan(16)
    assert faults == plan(16) != plan(17)
    assert len(faults) >= 60
    assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
    assert {fault.part for fault in faults} == set(PARTS)


@pytest.mark.parametrize("part", ["team-processes", "embedded-processes"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_process_is_killed_and_stopped_in_every_stage(part: str, stage: str) -> None:
    kinds = {fault.kind for fault in plan() if (fault.part, fault.stage) == (part, stage)}
    assert kinds >= {"SIGKILL", "SIGSTOP, SIGCONT"}


@pytest.mark.parametrize("server", ["MLflow", "Prefect", "PostgreSQL"])
def test_every_server_is_killed_or_stopped_and_frozen(server: str) -> None:
    kinds = {fault.kind.partition(": ")[2] for fault in plan() if fault.kind.startswith(f"{server}: ")}
    assert "SIGSTOP, SIGCONT" in kinds
    assert len(kinds) >= 2


def test_signs_tell_the_stage() -> None:
    seen = [
        Signs(),
        Signs(search="RUNNING"),
        Signs(search="FINISHED", training="RUNNING", epochs=29),
        Signs(search="FINISHED", training="RUNNING", epochs=30),
        Signs(search="FINISHED", training="RUNNING", epochs=30, models=1),
        Signs(search="FINISHED", training="FINISHED", epochs=30, models=1, versions=1),
    ]
    assert tuple(signs.stage for signs in seen) == STAGES


def test_the_committed_table_is_that_of_its_rows() -> None:
    if not (RESULTS / "chaos.json").exists():
        pytest.skip("no whole plan has been run yet")
    kept = json.loads((RESULTS / "chaos.json").read_text())
    rows = [Row(**row) for row in kept["rows"]]
    assert [row.number for row in rows] == [fault.number for fault in plan(kept["seed"])]
    head = {key: kept[key] for key in ("commit", "date", "hardware", "seed", "command")}
    assert (RESULTS / "chaos.md").read_text() == as_markdown(head, rows)
    for row, fault in zip(rows, plan(kept["seed"]), strict=True):
        assert not row.wrong, f"fault {row.number}"
        assert fault.stage in ("start", row.hit[0]), f"fault {row.number} came in another stage"
