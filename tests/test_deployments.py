"""prefect.yaml: Prefect ignores what it does not know without a word."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from pydantic import BaseModel

from flows.deploy import (
    FILE,
    POOL,
    TAG,
    crashed_runs_start_again,
    lost_runs_start_again,
    silent_runs_have_crashed,
)
from flows.running import gpu_limit

PLAN: dict[str, Any] = yaml.safe_load(FILE.read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PLAN["deployments"]}
PARTS = {"work_pool": WorkPoolConfig, "concurrency_limit": ConcurrencyLimitSpec, "schedules": RawScheduleConfig}


def unknown(section: dict[str, Any], model: type[BaseModel], place: str) -> Iterator[str]:
    """Keys that Prefect would ignore."""
    known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
    yield from (f"{place}.{key}" for key in section.keys() - known)
    for key, part in PARTS.items():
        for inner in section.get(key, []) if key == "schedules" else filter(None, [section.get(key)]):
            if isinstance(inner, dict) and model is DeploymentConfig:
                yield from unknown(inner, part, f"{place}.{key}")


def all_unknown(plan: dict[str, Any]) -> list[str]:
    top = {key: value for key, value in plan.items() if key != "definitions"}  # anchors, as in Prefect's own templates
    deployments = [
        key for d in plan["deployments"] for key in unknown(d, DeploymentConfig, f"deployments.{d.get('name')}")
    ]
    return [*unknown(top, PrefectYamlModel, "prefect.yaml"), *deployments]


def test_no_key_is_ignored() -> None:
    assert all_unknown(PLAN) == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("deployments.train.schdules", {"schdules": []}),
        ("deployments.train.work_pool.queue", {"work_pool": {"name": POOL, "queue": "x"}}),
        ("deployments.train.concurrency_limit.strategy", {"concurrency_limit": {"limit": 1, "strategy": "ENQUEUE"}}),
        ("deployments.train.schedules.tz", {"schedules": [{"cron": "0 2 * * *", "tz": "UTC"}]}),
    ],
)
def test_a_misspelt_key_is_found(name: str, wrong: dict[str, Any]) -> None:
    plan = {**PLAN, "deployments": [{**DEPLOYMENTS["train"], **wrong}]}
    assert all_unknown(plan) == [name]


def test_what_a_team_needs_is_there() -> None:
    assert set(DEPLOYMENTS) >= {
        "pipeline",
        "train",
        "search-worker",
        "evaluate",
        "compare",
        "promote",
        "rollback",
        "monitor",
    }
    pipeline = DEPLOYMENTS["pipeline"]
    assert pipeline["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert pipeline["schedules"][0]["timezone"]
    for deployment in DEPLOYMENTS.values():
        assert deployment["description"]
        assert deployment["tags"] == [TAG]  # what the automations go by
        assert deployment["work_pool"] == {"name": POOL}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_flow_takes_the_parameters(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == name
    flow.validate_parameters(flow.serialize_parameters({}) | deployment.get("parameters", {}))


@pytest.mark.parametrize("name", [name for name, deployment in DEPLOYMENTS.items() if "triggers" in deployment])
def test_events_start_it(name: str) -> None:
    from flows.monitor import RETRAIN
    from flows.promote import PROMOTED, ROLLED_BACK

    for trigger in DEPLOYMENTS[name]["triggers"]:
        known = DeploymentEventTrigger.model_fields.keys()
        assert set(trigger) <= known
        read = DeploymentEventTrigger.model_validate(trigger)
        assert read.expect <= {PROMOTED, ROLLED_BACK, RETRAIN}
        assert read.parameters is None or set(read.parameters) <= set(DEPLOYMENTS[name]["parameters"])


def test_restarts_have_an_end() -> None:
    again = crashed_runs_start_again()
    assert again.trigger.match["prefect.run-count"] == ["1", "2", "3"]
    lost = lost_runs_start_again()  # run-count stays 0, so the time between has to end it
    assert lost.trigger.match["prefect.run-count"] == ["0"]
    assert lost.trigger.within > 10 * silent_runs_have_crashed().trigger.within
    silent = silent_runs_have_crashed()
    assert silent.trigger.after <= silent.trigger.expect


def test_every_gpu_of_every_machine_has_a_limit_of_its_own() -> None:
    assert gpu_limit(0) != gpu_limit(1)
    assert all(platform.node() in gpu_limit(index) for index in range(2))


def test_a_server_is_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import typer

    from flows.deploy import main

    with pytest.raises(typer.Exit) as ended:
        main(tmp_path / "prefect.yaml")
    assert ended.value.exit_code == 2
    assert "PREFECT_API_URL: not set" in capsys.readouterr().err
