"""Tests the check of prefect.yaml, since Prefect silently ignores what it does not know."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from aemodels.config import UserError
from flows.deployment.deploy import (
    FILE,
    POOL,
    TAG,
    crashed_runs_start_again,
    lost_runs_start_again,
    make_pool,
    silent_runs_have_crashed,
    unbegun_runs_have_crashed,
)
from flows.deployment.prefect_yaml import find_mistakes, read_plan
from flows.deployment.worker import Worker
from flows.tasks import gpu_limit
from flows.tune import tune

PLAN: dict[str, Any] = yaml.safe_load(FILE.read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PLAN["deployments"]}


def test_nothing_is_wrong_with_it() -> None:
    assert read_plan(FILE) == PLAN


@pytest.mark.flow
@pytest.mark.usefixtures("prefect")
def test_a_work_pool_that_prefects_own_worker_made_is_refused() -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        with pytest.raises(UserError, match=r"type `process`.*prefect work-pool delete aemodels"):
            make_pool(client)
        client.delete_work_pool(POOL)
        make_pool(client)
        make_pool(client)
        assert client.read_work_pool(POOL).type == Worker.type


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schdules": []}, ["deployments.train.schdules", "did you mean schedules?"]),
        ({"work_pool": {"name": POOL, "queue": "x"}}, ["deployments.train.work_pool.queue", "no such key"]),
        ({"concurrency_limit": {"limit": 1, "strategy": "ENQUEUE"}}, ["train.concurrency_limit.strategy"]),
        ({"schedules": [{"cron": "0 2 * * *", "timezoen": "UTC"}]}, ["schedules.timezoen", "did you mean timezone?"]),
        ({"entrypoint": "flows.train.trian"}, ["deployments.train.entrypoint=flows.train.trian", "MODULE.FLOW"]),
        ({"parameters": {"setings": {}}}, ["train.parameters.setings", "did you mean settings?"]),
        ({"parameters": {"settings": {"training": {"epoches": 60}}}}, ["settings.training.epoches", "epochs?"]),
        ({"triggers": [{"expct": ["x"]}]}, ["deployments.train.triggers.expct", "did you mean expect?"]),
        ({"schedules": {"cron": "0 2 * * *"}}, ["schedules"]),
        ({"parameters": {"settings": None}}, ["train.parameters.settings=None"]),
        ({"parameters": {"settings": {"training.epochs": 60}}}, ["settings.training.epochs", "no such setting"]),
        ({"parameters": {"settings": {"training": {"epochs": 0}}}}, ["settings.training.epochs=0", "at least 1"]),
        (
            {"parameters": {"settings": {"data": {"name": "folder", "path": ["photos"]}}}},
            ['settings.data.path=["photos"]: photos is a relative path, and a worker may start anywhere'],
        ),
        ({"parameters": {"settings": {"data": {"name": "folder", "path": "/a"}}}}, ["data.path=/a", "path: [/a]"]),
    ],
)
def test_a_mistake_is_named_before_anything_is_deployed(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "deployments": [{**DEPLOYMENTS["train"], **changes}]}))
    with pytest.raises(UserError) as refused:
        read_plan(file)
    assert all(word in str(refused.value) for word in words), refused.value


FILLED_IN = "{{ prefect.variables.some }}"


def _of_folder(*paths: str) -> dict[str, Any]:
    return {"data": {"name": "folder", "path": list(paths)}, "registry": {"name": "own"}}


@pytest.mark.parametrize("folder", ["photos", "./photos", "../photos", "$HOME/photos", r"C:\photos", "~nobody-here/x"])
@pytest.mark.parametrize(
    ("flow", "changes"),
    [
        ("train", lambda path: {"parameters": {"settings": _of_folder("/a", path)}}),
        ("train", lambda path: {"parameters": {"settings": _of_folder(path) | {"training": {"epochs": FILLED_IN}}}}),
        ("train", lambda path: {"parameters": {"settings": _of_folder(FILLED_IN, path)}}),
        ("pipeline", lambda path: {"parameters": {"data": _of_folder(path)["data"]}}),
        ("pipeline", lambda path: {"schedules": [{"cron": "0 2 * * *", "parameters": {"settings": _of_folder(path)}}]}),
        ("pipeline", lambda path: {"triggers": [{"expect": ["x"], "parameters": {"settings": _of_folder(path)}}]}),
        ("evaluate", lambda path: {"parameters": {"model": "a@b", "changes": {"data.path": [path]}}}),
        ("evaluate", lambda path: {"parameters": {"model": "a@b", "changes": _of_folder(path)}}),
        (
            "compare",
            lambda path: {
                "parameters": {
                    "comparison": {"shared": _of_folder(path), "systems": {"a": {}, "b": {"model.latent_dim": 3}}}
                }
            },
        ),
        (
            "compare",
            lambda path: {
                "parameters": {
                    "comparison": {
                        "systems": {
                            name: {"data.name": "folder", "data.path": [path], "registry.name": "x", "model.name": name}
                            for name in ("ae", "vae")
                        }
                    }
                }
            },
        ),
    ],
)
def test_a_relative_folder_is_refused_wherever_it_is_given(flow: str, changes: Any, folder: str) -> None:
    plan = {**PLAN, "deployments": [{"name": "one", "entrypoint": f"flows.{flow}.{flow}", **changes(folder)}]}
    (mistake,) = find_mistakes(plan)
    assert f"{folder} is a relative path, and a worker may start anywhere; give the whole path, from /" in mistake
    assert "data.path" in mistake
    assert not list(find_mistakes({**plan, "deployments": [{**plan["deployments"][0], **changes("~/photos")}]}))


@pytest.mark.parametrize(("model", "refused"), [("mlruns/runs/abc", True), ("/runs/abc", False), ("digits/3", False)])
def test_a_relative_folder_of_a_model_is_refused(model: str, refused: bool) -> None:
    plan = {**PLAN, "deployments": [{**DEPLOYMENTS["evaluate"], "parameters": {"model": model}}]}
    mistakes = list(find_mistakes(plan))
    assert len(mistakes) == refused, mistakes
    assert all(f"{model} is a relative path" in mistake for mistake in mistakes)


def test_what_prefect_fills_in_is_not_judged(tmp_path: Path) -> None:
    later = {"parameters": {"settings": {"training": {"epochs": "{{ prefect.variables.epochs }}"}}}}
    plan = {**PLAN, "deployments": [{**DEPLOYMENTS["train"], **later}]}
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(plan))
    assert read_plan(tmp_path / "prefect.yaml") == plan


@pytest.mark.parametrize(
    ("text", "words"), [("deployments: [", "not YAML"), ("deployments: {}", "deployments"), ("- 1", "prefect.yaml")]
)
def test_a_file_that_is_none(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_plan(tmp_path / "prefect.yaml")


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
        flow = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])
        assert set(read.parameters or ()) <= flow.parameters.properties.keys()


def test_restarts_have_an_end() -> None:
    again = crashed_runs_start_again()
    assert again.trigger.match["prefect.run-count"] == ["1", "2", "3"]
    lost = lost_runs_start_again()  # run-count stays 0, so the time between has to end it
    assert lost.trigger.match["prefect.run-count"] == ["0"]
    assert lost.trigger.within > 10 * silent_runs_have_crashed().trigger.within
    silent, unbegun = silent_runs_have_crashed(), unbegun_runs_have_crashed()
    assert "prefect.flow-run.Pending" not in silent.trigger.after  # a busy machine needs minutes to start a process
    assert unbegun.trigger.within >= 5 * silent.trigger.within
    assert "prefect.flow-run.Running" in unbegun.trigger.expect
    assert silent.trigger.after <= silent.trigger.expect


def test_every_gpu_of_every_machine_has_a_limit_of_its_own() -> None:
    assert gpu_limit(0) != gpu_limit(1)
    assert all(platform.node() in gpu_limit(index) for index in range(2))


def test_a_server_is_needed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from flows.deployment.deploy import main

    with pytest.raises(typer.Exit) as ended:
        main(tmp_path / "prefect.yaml")
    assert ended.value.exit_code == 2
    assert "PREFECT_API_URL: not set" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/api", "127.0.0.1:4200/api", "http://nowhere.invalid/api"])
def test_a_server_that_does_not_answer_is_named(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.deployment.deploy import main

    monkeypatch.setenv("PREFECT_API_URL", address)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(typer.Exit) as ended:
        main(FILE)
    assert ended.value.exit_code == 2
    assert f"PREFECT_API_URL={address}: the Prefect server does not answer" in capsys.readouterr().err


def test_a_form_takes_a_search_space_of_lists_and_sections() -> None:
    """Prefect's pages check a filled form against the schema, and the flow then reads it."""
    space = {
        "model.trunk.widths": {"choices": [[128], [256, 128]]},
        "model.trunk": {"choices": ["mlp", {"name": "mlp", "activation": "tanh"}]},
        "training.images": {"choices": [1000, None]},
    }
    given = {"settings": {"tuning": {"space": space}}}
    assert not validate(given, parameter_schema(tune).model_dump_for_openapi())
    read = tune.validate_parameters(given)["settings"].tuning.space
    assert {key: list(varied.choices) for key, varied in read.items()} == {
        key: varied["choices"] for key, varied in space.items()
    }
