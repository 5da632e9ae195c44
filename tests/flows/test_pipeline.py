"""Tests the flows: pipeline, comparison, promotion and single commands, and what Prefect's pages show."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flow_runs import TINY, once
from prefect import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus
from typer.testing import CliRunner

from flows.cli.main import app

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect")]


@pytest.mark.usefixtures("own_store")
def test_the_pipeline_leaves_a_champion_and_its_runs_share_a_tag() -> None:
    from aemodels.settings import Settings
    from aemodels.tracking import catalog
    from aemodels.tracking.store import open_store
    from flows.pipeline import pipeline

    settings = Settings().override({**TINY, "registry.name": "piped"})
    result = pipeline(settings)
    store = open_store()
    champion = catalog.champion(store, "piped")
    assert result.promotion.promoted
    assert champion is not None
    assert champion.version == result.trained.version
    assert (result.trained.folder / "weights.safetensors").exists()
    assert all(figure.exists() for figure in (*result.trained.figures, *result.tuned.figures))
    runs = store.client.search_runs([store.experiment("piped")])
    kinds = sorted(run.data.tags["kind"] for run in runs)
    assert kinds == ["search", "training", "trial", "trial"]
    assert len({run.data.tags["pipeline"] for run in runs}) == 1
    again = pipeline(settings.override({"registry.repeat": True}))  # another flow run does its work anew
    assert again.trained.run_id != result.trained.run_id
    assert again.trained.version.version == 2
    assert again.tuned.run_id != result.tuned.run_id
    assert not again.promotion.promoted  # the same model is not better than itself
    assert again.promotion.champion == 1
    assert again.data == result.data


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_a_pipeline_of_the_same_images_and_settings_does_nothing(tmp_path: Path) -> None:
    from aemodels.tracking import registry
    from aemodels.tracking.store import open_store

    first = done(call(*PIPED))
    assert (first["new"], first["promoted"], first["version"]) == (True, True, 1)
    runs = {run.info.run_id for run in tracked("piped")}
    for folder in (Path(os.environ["AEMODELS_STORE"]) / "runs").iterdir():
        folder.rename(tmp_path / f"elsewhere-{folder.name}")  # as on another machine of the team
    again = done(call(*PIPED))
    assert again.keys() == first.keys()
    assert (again["new"], again["promoted"], again["promotion"]["already"], again["champion"]) == (
        False,
        False,
        True,
        1,
    )
    assert (again["version"], again["test/mse"]) == (1, first["test/mse"])
    assert {run.info.run_id for run in tracked("piped")} == runs
    told = call(*[word for word in PIPED if word != "--json"])
    assert told.exit_code == 0
    assert "nothing new since version 1" in told.stdout
    assert "registry.repeat=true" in told.stdout
    # a person's word stays: what was taken back is not made again
    repeated = done(call(*PIPED, "registry.repeat=true"))
    assert (repeated["new"], repeated["version"], repeated["champion"]) == (True, 2, 1)
    assert "nothing new since version 2" in done(call(*PIPED))["promotion"]["reason"]
    registry.promote(open_store(), "piped", 2, "by hand", "anna")
    registry.rollback(open_store(), "piped", reason="on second thought", by="anna")
    unchanged = done(call(*PIPED))
    assert (unchanged["new"], unchanged["champion"]) == (False, 1)
    # another setting, and a version that is gone, are something new
    assert done(call(*PIPED, "seed=1"))["version"] == 3
    for version in (1, 2):
        open_store().client.delete_model_version("piped", str(version))
    assert done(call(*PIPED))["new"]


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_of_two_pipelines_at_once_one_does_the_work() -> None:
    from aemodels.settings import Settings
    from flows.pipeline import pipeline

    settings = Settings().override({**TINY, "registry.name": "both"})
    both: list[Future[Any]] = [Future(), Future()]
    for future in both:
        work = partial(copy_context().run, lambda f=future: f.set_result(pipeline(settings)))
        threading.Thread(target=work, daemon=True).start()
    results = [future.result(timeout=240) for future in both]
    assert sorted(result.new for result in results) == [False, True]
    assert {result.trained.version.version for result in results} == {1}
    assert len(tracked("both")) == 4


def test_who_waits_at_a_gate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the one who holds the gate was killed, the gate is free again within LEASE."""
    from prefect import flow

    from flows import tasks, terminal

    @flow
    def waits() -> list[str]:
        with tasks.alone("gate-waits"):
            return list(said)

    said: list[str] = []
    assert waits() == []
    with get_client(sync_client=True) as client:
        held = client.increment_concurrency_slots_with_lease(["gate-waits"], 1, "concurrency", tasks.LEASE).json()

        def say(text: str) -> None:
            said.append(text)
            client.release_concurrency_slots_with_lease(UUID(held["lease_id"]))

        monkeypatch.setattr(tasks, "SILENCE", 0.2)
        monkeypatch.setattr(terminal, "say", say)
        (text,) = waits()
    assert text.startswith("gate-waits: this run waits for its turn")


def test_a_server_of_one_command_holds_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Prefect's temporary server is killed, it forgets who holds a limit, and the limit would stay taken."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import tasks

    monkeypatch.setattr(tasks, "get_client", None)
    with temporary_settings({PREFECT_API_URL: None}), tasks.alone("gate-x"):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_a_comparison_shows_its_table_and_picture_on_prefects_pages() -> None:
    systems = json.dumps({"systems": {name: {"model.name": name} for name in ("ae", "gan")}})
    file = Path(os.environ["AEMODELS_STORE"]) / "two.json"
    file.write_text(systems)
    settings = [f"{key}={value}" for key, value in TINY.items() if not key.startswith("tuning")]
    told = done(call("compare", "--json", str(file), *settings, "evaluation.samples=100"))
    assert [row["system"] for row in told["table"]["rows"]][:2] == ["ae", "gan"]  # references follow
    with get_client(sync_client=True) as client:
        keys = [ArtifactFilterKey(any_=[f"comparison-{what}"]) for what in ("table", "comparison", "mlflow")]
        table, picture, link = (client.read_artifacts(artifact_filter=ArtifactFilter(key=key)) for key in keys)
    assert "| gan |" in table[0].data
    assert "Made by `aemodels compare two.json " in table[0].data
    assert picture
    assert told["run_id"] in link[0].data


@pytest.mark.usefixtures("own_store")
def test_prefects_pages_show_metrics_pictures_and_the_way_to_mlflow() -> None:
    from prefect.client.orchestration import get_client

    from aemodels.settings import Settings
    from flows.train import train

    trained = train(Settings().override({**TINY, "registry.name": "shown"}))
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    of = {artifact.type: artifact for artifact in artifacts}
    assert {"table", "markdown", "image"} <= of.keys()
    assert any(trained.url in str(artifact.data) for artifact in artifacts if artifact.type == "markdown")
    rows = [row for artifact in artifacts if artifact.type == "table" for row in json.loads(artifact.data)]
    assert "test/frechet_samples" in {row["metric"] for row in rows}
    assert of["image"].data.startswith("data:image/png;base64,")


# ---------------------------------------------------------------- promotion


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_a_promotion_waits_for_a_person_and_is_told_as_events() -> None:
    from aemodels.settings import Settings
    from aemodels.tracking.history import history
    from aemodels.tracking.store import open_store
    from flows.promote import PROMOTED, ROLLED_BACK, promote, rollback
    from flows.train import train

    first = Settings().override({**TINY, "registry.name": "watched", "evaluation.primary": "mse"})
    better = first.override({"training.epochs": 200})
    train(first)
    assert promote(first).promoted
    train(better)
    waiting: Future[Any] = Future()
    work = partial(copy_context().run, lambda: waiting.set_result(promote(better, approval=True)))
    threading.Thread(target=work, daemon=True).start()  # a test that fails does not wait for it
    run = _paused("promote")
    (shown,) = _artifacts(run.id)
    assert "| challenger 2 | champion 1 |" in shown
    assert shown.count("data:image/png;base64,") == 2
    assert champion_version("watched") == 1
    with get_client(sync_client=True) as client:
        refused = client.resume_flow_run(run.id, run_input={"approve": True, "name": "anna", "reason": ""})
        assert refused.status == SetStateStatus.REJECT  # the form has to be filled in; the run goes on waiting
        client.resume_flow_run(run.id, run_input={"approve": True, "name": "anna", "reason": "sharper"})
    promotion = waiting.result(timeout=60)
    assert (promotion.promoted, promotion.champion) == (True, 2)
    assert promotion.reason.endswith("approved by anna: sharper")
    assert rollback("watched", reason="too smooth", by="bert") == 1
    line = history(open_store(), "watched")
    assert [(reign.version, reign.by) for reign in line[:2]] == [(1, "the gate"), (2, "the gate and anna")]
    assert (line[2].reason, line[2].by) == ("rollback from version 2: too smooth", "bert")
    assert _told("aemodels.model.watched", 3) == [(PROMOTED, 1), (PROMOTED, 2), (ROLLED_BACK, 1)]
    # what a run has found out is what it does when it is started again
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).parameters["version"] == 2
    assert rollback("watched", version=1) == champion_version("watched") == 1
    # what the gate declines is declined for good, and nobody is asked
    train(first)
    promotion = promote(first, approval=True)
    assert not promotion.promoted
    assert promotion.reason.endswith("declined by the gate: nobody is asked about a version that the gate declines")


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_of_two_approvals_of_one_version_the_rejection_stays_too() -> None:
    from aemodels.settings import Settings
    from flows.promote import promote
    from flows.train import train

    settings = Settings().override({**TINY, "registry.name": "twice"})
    train(settings)
    waiting: list[Future[Any]] = [Future(), Future(), Future()]
    for future in waiting:
        work = partial(copy_context().run, lambda f=future: f.set_result(promote(settings, approval=True)))
        threading.Thread(target=work, daemon=True).start()
    answers = [(False, "bert", "blurred"), (True, "anna", "sharp"), (False, "carl", "too late")]
    ended: list[Any] = []
    for approve, name, reason in answers:
        with get_client(sync_client=True) as client:
            run = _paused_runs(client, len(answers) - len(ended))[0]
            client.resume_flow_run(run.id, run_input={"approve": approve, "name": name, "reason": reason})
        (future,) = _within(60, lambda: [one for one in waiting if one.done()])
        waiting.remove(future)
        ended.append(future.result())
    assert [promotion.promoted for promotion in ended] == [False, True, False]
    lines = done(call("history", "twice", "--json"))
    assert [(line["decision"], line["by"]) for line in lines] == [
        ("rejected", "bert"),
        ("promoted", "the gate and anna"),
        ("rejected", "carl"),
    ]
    assert lines[2]["reason"] == "declined by carl: too late; it is the champion already"
    assert "rejected" in call("history", "twice").stdout


def champion_version(name: str) -> int:
    from aemodels.tracking.catalog import get
    from aemodels.tracking.store import open_store

    return get(open_store(), name, "champion").version.version


def _within(seconds: float, found: Callable[[], Any]) -> Any:
    """Waits until something is found, and returns it."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.3)
    return result


def _paused_runs(client: Any, count: int) -> list[Any]:
    """Returns all flow runs that wait for a person, once there are so many."""
    asked = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    read = partial(client.read_flow_runs, flow_run_filter=asked)
    runs: list[Any] = _within(60, lambda: found if len(found := read()) == count else None)
    return runs


def _paused(flow: str) -> Any:
    with get_client(sync_client=True) as client:
        (run,) = _paused_runs(client, 1)
        assert client.read_flow(run.flow_id).name == flow
    return run


def _artifacts(run: UUID) -> list[str]:
    """Returns the comparisons of a run."""
    asked = ArtifactFilter(key=ArtifactFilterKey(any_=["comparison"]), flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        return [str(artifact.data) for artifact in client.read_artifacts(artifact_filter=asked)]


def _told(resource: str, count: int) -> list[tuple[str, int]]:
    """Returns events about a resource and the versions that they name, oldest first, once so many have come."""

    def events() -> list[dict[str, Any]]:
        asked = {"filter": {"resource": {"id": [resource]}}}
        with get_client(sync_client=True) as client:
            found: list[dict[str, Any]] = client.request("POST", "/events/filter", json=asked).json()["events"]
        return found if len(found) >= count else []

    told = sorted(_within(30, events), key=lambda event: event["occurred"])
    return [(event["event"], event["payload"]["version"]) for event in told]


# ---------------------------------------------------------------- the pipeline again, and on the command line


PIPED = [
    "pipeline",
    "--json",
    "registry.name=piped",
    "model.trunk=mlp",
    *(f"{key}={value}" for key, value in TINY.items()),
]


def call(*arguments: str) -> Any:
    """Runs a command in this process, with the address of the Prefect server in its environment."""
    from prefect.settings import PREFECT_API_URL

    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    os.environ["PREFECT_API_URL"] = PREFECT_API_URL.value()
    try:
        return CliRunner().invoke(app, list(arguments))
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)


def done(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def tracked(name: str) -> Any:
    from aemodels.tracking.store import open_store

    store = open_store()
    return store.client.search_runs([store.experiment(name)])


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_a_pipeline_that_was_interrupted_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import aemodels.checkpoints.training as saving

    with monkeypatch.context() as patch:
        once(patch, saving, "save_weights", KeyboardInterrupt())
        assert call(*PIPED).exit_code == 130
    before = {run.info.run_id: run for run in tracked("piped")}
    assert sorted(run.info.status for run in before.values()) == ["FINISHED", "FINISHED", "FINISHED", "KILLED"]
    told = done(call(*PIPED))
    after = {run.info.run_id: run for run in tracked("piped")}
    assert after.keys() == before.keys()
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert len({run.data.tags["pipeline"] for run in after.values()}) == 1
    assert (told["version"], told["champion"], told["promoted"]) == (1, 1, True)
    assert told["run_id"] in after
    assert isinstance(told["test/negative_elbo"], float)


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize("work", ["train", "tune"])
def test_a_command_that_was_killed_before_it_told_its_result_tells_it(
    work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [work, *PIPED[1:]]
    with monkeypatch.context() as patch:
        once(
            patch, import_module("flows.cli.results"), {"train": "trained", "tune": "tuned"}[work], KeyboardInterrupt()
        )
        assert call(*command).exit_code == 130
    kept = {run.info.run_id for run in tracked("piped")}
    assert done(call(*command))["run_id"] in kept
    assert {run.info.run_id for run in tracked("piped")} == kept
    assert done(call(*command))["run_id"] not in kept


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_the_same_flow_run_again_repeats_only_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test starts the run again like the button `Retry` on Prefect's page."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    import aemodels.steps.promote as gate
    import flows.promote
    import flows.train
    import flows.tune
    from aemodels.config import UserError
    from aemodels.settings import Settings
    from flows.pipeline import pipeline

    trainings, searches = (
        _counted(monkeypatch, flows.train.step, "train"),
        _counted(monkeypatch, flows.tune.step, "tune"),
    )
    once(monkeypatch, gate, "decide", UserError("mend me"))
    once(monkeypatch, flows.promote, "publish_metrics", UserError("mend me"))  # it is decided, and nobody was told
    settings = Settings().override({**TINY, "registry.name": "retried"})
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(pipeline, parameters={"settings": settings})
        for _ in range(2):
            with pytest.raises(UserError, match="mend me"):
                run_flow(pipeline, flow_run=client.read_flow_run(flow_run.id), parameters={"settings": settings})
            assert client.read_flow_run(flow_run.id).state.is_failed()
            client.set_flow_run_state(flow_run.id, Scheduled(), force=True)
        finished = run_flow(pipeline, flow_run=client.read_flow_run(flow_run.id), parameters={"settings": settings})
    assert finished.promotion.promoted
    assert (len(searches), len(trainings)) == (1, 1)
    assert len(tracked("retried")) == 4
    # another run about the champion, which changes nothing, has nothing to tell
    assert flows.promote.promote(settings, version=1).already
    assert flows.promote.rollback("retried", version=1) == 1
    assert _told("aemodels.model.retried", 1) == [(flows.promote.PROMOTED, 1)]


def _counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    real, calls = getattr(module, name), []

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, counting)
    return calls


@pytest.mark.usefixtures("own_store")
def test_a_relative_folder_is_refused_at_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker starts in a temporary folder, where a person's `photos` never lies."""
    from prefect.exceptions import ParameterTypeError, PrefectHTTPStatusError
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    own: dict[str, Any] = {"data": {"name": "folder", "path": ["photos"]}, "registry": {"name": "own"}}
    given: dict[str, dict[str, Any]] = {
        "prepare": {"settings": own},
        "tune": {"settings": own},
        "train": {"settings": own},
        "promote": {"settings": own},
        "pipeline": {"settings": {}, "data": own["data"]},
        "compare": {"comparison": {"shared": own, "systems": {"a": "conv-vae", "b": {}}}},
        "evaluate": {"model": "photos/"},
    }
    words = "photos/? is a relative path, and a worker may start anywhere"
    for name, parameters in given.items():
        with pytest.raises(ParameterTypeError, match=words):
            load_flow_from_entrypoint(f"flows.{name}.{name}")(**parameters)
    for name in ("train", "pipeline"):  # the form, and `prefect deployment run`
        deployment = load_flow_from_entrypoint(f"flows.{name}.{name}").to_deployment("one", work_pool_name=None).apply()
        with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError, match="data") as refused:
            client.create_flow_run_from_deployment(deployment, parameters={"settings": own, **given[name]})
        assert refused.value.response.status_code == 409


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
def test_single_commands_run_as_flows_where_there_is_a_server() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs()}
        settings = PIPED[2:]
        assert done(call("prepare", "--json", *settings))["sizes"]["test"] == 269
        told = done(call("train", "--json", *settings))
        assert done(call("tune", "--json", *settings))["trials"]
        judged = done(call("evaluate", "piped/1", "--json"))
        refused = call("train", "--json", "data=folder", "data.path=/nowhere", "registry.name=x")
        names = {client.read_flow(run.flow_id).name for run in client.read_flow_runs() if run.id not in before}
    assert {"prepare", "train", "tune", "evaluate"} <= names
    assert judged["test/mse"] == told["test/mse"]
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "data.path=/nowhere" in refused.stderr
