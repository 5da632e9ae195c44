"""Tests runs that are interrupted, damaged, deleted or repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quick import first
from tracked import TINY, client, history, runs, versions
from typer.testing import CliRunner

from aemodels.checkpoints.run_folder import COMMAND, RunFolder
from aemodels.steps.train import _track_again
from flows.cli.main import app

TRAIN = ["train", "--json", *TINY, "training.epochs=3"]
SEARCH = ["tune", "--json", *TINY, "tuning.trials=1", "tuning.epochs=1", "tuning.images=100"]


def call(*arguments: object) -> Any:
    """Runs a command in this process."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, list(map(str, arguments)))
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)


def done(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def interrupt_in(monkeypatch: pytest.MonkeyPatch, name: str, at: int = 1, after: bool = True) -> None:
    """Presses Ctrl-C in, or right after, the n-th call of a function of the training step, or of what it saves with."""
    import aemodels.checkpoints.training as saving
    import aemodels.steps.train as step

    owner = saving if hasattr(saving, name) else step
    real, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) < at:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


def interrupted_training(name: str, at: int = 1, after: bool = True, command: list[str] = TRAIN) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, name, at, after)
        assert call(*command).exit_code == 130


@pytest.fixture
def folder(store) -> Path:
    """Returns the folder of a fresh store."""
    return Path(store.uri.removeprefix("sqlite:///")).parent


@pytest.mark.parametrize(
    ("name", "after"),
    first(
        1, [("save_state", True), ("register", True), ("save_state", False), ("save_card", True), ("evaluating", False)]
    ),
)
def test_wherever_it_is_interrupted_there_is_one_run_and_one_version(folder: Path, name: str, after: bool) -> None:
    interrupted_training(name, after=after)
    (run,) = runs(folder, "training")
    assert run.info.status == "KILLED"
    told = done(call(*TRAIN))
    (run,) = runs(folder, "training")
    assert (run.info.run_id, run.info.status) == (told["run_id"], "FINISHED")
    assert versions(folder) == [1]
    assert len(list((folder / "runs").iterdir())) == 1
    for metric, points in history(folder, told["run_id"]).items():
        if metric.startswith(("train/", "val/")):
            assert [step for step, _ in points] == [1, 2, 3], metric


@pytest.mark.parametrize("step", first(1, [2, 0, 3]))  # of an epoch, of the test metrics, of the last epoch
def test_what_a_killed_attempt_has_tracked_is_not_tracked_twice(
    folder: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aemodels.tracking.run import Run

    real = Run.metrics

    def interrupted(run: Run, metrics: dict[str, float], at_step: int = 0, *given: Any, **named: Any) -> None:
        real(run, metrics, at_step, *given, **named)
        if at_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "metrics", interrupted)
        assert call(*TRAIN).exit_code == 130
    told = done(call(*TRAIN))
    points = history(folder, told["run_id"])
    assert [step for step, _ in points["train/loss"]] == [1, 2, 3]
    assert [step for step, _ in points["test/mse"]] == [0]


@pytest.mark.parametrize("command", first(1, [TRAIN, SEARCH]), ids=["train", "tune"])
def test_a_command_that_was_killed_before_it_told_its_result_tells_it_the_next_time(
    folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that, the same command begins another run."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.cli.results.trained", killed)
        patch.setattr("flows.cli.results.tuned", killed)
        assert call(*command).exit_code == 130
    kind = "training" if command is TRAIN else "search"
    (run,) = runs(folder, kind)
    told = done(call(*command))
    assert told["run_id"] == run.info.run_id
    assert len(runs(folder, kind)) == 1
    assert done(call(*command))["run_id"] != told["run_id"]


@pytest.mark.slow
def test_a_result_that_could_not_be_written_is_told_the_next_time(folder: Path) -> None:
    """The command writes into a file or pipe only at its end."""
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "flows.cli.main", *TRAIN]
        assert subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment).returncode == 2
    assert versions(folder) == [1]
    assert done(call(*TRAIN))["version"] == 1
    assert versions(folder) == [1]


@pytest.mark.slow
def test_a_result_whose_run_was_deleted_is_not_told(folder: Path) -> None:
    first = done(call(*TRAIN))
    RunFolder(Path(first["folder"])).asked_for(COMMAND)  # as if it had been killed before it told
    client(folder).delete_run(first["run_id"])
    again = done(call(*TRAIN))
    assert again["run_id"] != first["run_id"]
    assert done(call(*TRAIN))["run_id"] not in (first["run_id"], again["run_id"])


def test_a_training_that_an_earlier_release_left_goes_on(folder: Path) -> None:
    """The earlier release noted the last tracked epoch without its time."""
    epochs: list[int] = []

    class Tracking:
        def metrics(self, _metrics: object, step: int, *_at: int) -> None:
            epochs.append(step)

    class Left:
        history = ({},) * 3
        epoch = 3

    own = RunFolder(folder)
    own.note(tracked=2)
    _track_again(Left(), own, Tracking())  # type: ignore[arg-type]
    assert epochs == [3]
    assert own.notes()["tracked"][0] == 3


@pytest.mark.slow
def test_who_asks_again_for_a_finished_run_gets_it(folder: Path, digits) -> None:
    """A flow run may be killed before it has its training's result. It must not train and register again."""
    from aemodels.config import read_text
    from aemodels.runtime.progress import finish
    from aemodels.settings import load_settings
    from aemodels.steps.train import train

    settings = load_settings(read_text(TRAIN[2:]))
    first, again, other = (finish(train(settings, digits, group=group)) for group in ("one", "one", "two"))
    assert again == first
    assert versions(folder) == [1, 2]
    assert (first.version.version, other.version.version) == (1, 2)
    assert finish(train(settings, digits, group="")).version.version == 3  # nobody who could have asked before


@pytest.mark.slow
def test_a_registration_that_was_killed_leaves_no_pending_model(folder: Path) -> None:
    """A SIGKILL lets nothing of the registration's own clean-up run."""
    script = (
        "import os, sys, aemodels.tracking.registry as registry, flows.cli.main as cli\n"
        "registry._ensure_model = lambda *_: os.kill(os.getpid(), 9)\n"
        "sys.argv = ['aemodels', *sys.argv[1:]]\n"
        "cli.main()"
    )
    killed = subprocess.run([sys.executable, "-c", script, *TRAIN], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(pending_or_ready(folder)) == 1
    assert done(call(*TRAIN, "registry.name=other"))["version"] == 1  # whatever the next command is
    assert pending_or_ready(folder) == ["READY"]
    assert [run.info.status for run in runs(folder, "training")] == ["KILLED", "FINISHED"]
    assert done(call(*TRAIN))["version"] == 1
    assert pending_or_ready(folder) == ["READY", "READY"]


@pytest.mark.slow
def test_what_a_killed_evaluation_left_running_is_ended_by_the_next_command(folder: Path) -> None:
    done(call(*TRAIN))
    script = (
        "import os, sys, aemodels.steps.evaluate as step, flows.cli.main as cli\n"
        "step.evaluating = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "sys.argv = ['aemodels', 'evaluate', 'digits/1']\n"
        "cli.main()"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [run.info.status for run in runs(folder, "evaluation")] == ["RUNNING"]
    done(call("evaluate", "digits/1", "--json"))
    assert [run.info.status for run in runs(folder, "evaluation")] == ["KILLED", "FINISHED"]


@pytest.mark.slow
def test_a_run_that_was_begun_and_not_noted_goes_on(folder: Path) -> None:
    """The process is killed between MLflow's answer and the note of the run's id."""
    from aemodels.checkpoints.run_folder import RunFolder

    real = RunFolder.note

    def interrupted(own: RunFolder, **facts: Any) -> None:
        if "run_id" in facts:
            raise KeyboardInterrupt
        real(own, **facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "note", interrupted)
        assert call(*TRAIN).exit_code == 130
    told = done(call(*TRAIN))
    assert [(run.info.run_id, run.info.status) for run in runs(folder, "training")] == [(told["run_id"], "FINISHED")]


def test_a_trial_that_was_begun_and_not_noted_goes_on(folder: Path) -> None:
    from aemodels.tuning.study import Study

    real = Study.remember

    def interrupted(study: Study, key: str, value: str) -> None:
        if key == "run.1":
            raise KeyboardInterrupt
        real(study, key, value)

    search = ["tune", "--json", *TINY, "tuning.trials=2", "tuning.generation=2", "tuning.epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "remember", interrupted)
        assert call(*search).exit_code == 130
    done(call(*search))
    assert sorted(run.data.tags["trial"] for run in runs(folder, "trial")) == ["0", "1"]


def test_what_an_attempt_left_in_a_container_that_is_gone_is_ended_by_the_next_attempt(store) -> None:
    """Nothing is known of processes in another container, but a flow run has one attempt at a time."""
    from aemodels.runtime.process_names import own_name
    from aemodels.tracking.run import PIPELINE, PROCESS, start_run

    elsewhere = {PROCESS: f"gone-{own_name()}"}
    left = start_run(store, "digits", "left", {PIPELINE: "flow run", **elsewhere})
    others = start_run(store, "digits", "another's", {PIPELINE: "another flow run", **elsewhere})
    start_run(store, "digits", "again", {PIPELINE: "flow run"})
    statuses = {run.id: store.client.get_run(run.id).info.status for run in (left, others)}
    assert statuses == {left.id: "KILLED", others.id: "RUNNING"}


def test_all_who_share_a_search_are_still_to_get_its_result(folder: Path) -> None:  # noqa: ARG001  the store is set
    from aemodels.checkpoints.run_folder import awaited, joined

    for asker in ("one", "two"):
        with joined("shared", asker):
            pass
    assert awaited("shared", "one", newer=False)
    assert awaited("shared", "two", newer=False)
    assert not awaited("shared", "three", newer=False)


def test_a_pipeline_that_was_killed_just_before_its_end_is_not_gone_on_with(folder: Path) -> None:
    """Its result was kept with the version. A later pipeline of another release must not take it."""
    from aemodels.checkpoints.run_folder import claimed, finish_left

    with claimed("pipeline-1") as killed:
        killed.note(trained={"version": 1})
    finish_left("pipeline-1", {"promoted": True})
    with claimed("pipeline-1") as new:
        assert new.path == folder / "runs" / "pipeline-1-2"
    finish_left("pipeline-1", {"promoted": True})
    with claimed("pipeline-1") as same:  # nothing was begun in it
        assert same.path == new.path


def test_a_finished_run_keeps_no_checkpoint_even_if_it_was_killed_then(folder: Path) -> None:  # noqa: ARG001
    from aemodels.checkpoints.run_folder import claimed

    with claimed("one") as run:
        run.finish({})
        (run.path / "state.safetensors").touch()  # as if it had not come to its removal
    with claimed("one"):
        assert not (run.path / "state.safetensors").exists()


def pending_or_ready(folder: Path) -> list[str]:
    """Returns the states of all models that were logged."""
    connected = client(folder)
    places = [experiment.experiment_id for experiment in connected.search_experiments()]
    return [str(model.status) for model in connected.search_logged_models(places)]


@pytest.mark.slow
def test_a_run_that_was_deleted_meanwhile_is_replaced_with_its_whole_history(folder: Path) -> None:
    interrupted_training("save_state", at=3)
    (run,) = runs(folder, "training")
    client(folder).delete_run(run.info.run_id)
    told = done(call(*TRAIN))
    assert told["run_id"] != run.info.run_id
    assert [step for step, _ in history(folder, told["run_id"])["train/seconds"]] == [1, 2, 3]


@pytest.mark.slow
def test_a_run_that_goes_on_belongs_to_the_pipeline_that_goes_on(folder: Path, digits) -> None:
    from aemodels.config import read_text
    from aemodels.runtime.progress import finish
    from aemodels.settings import load_settings
    from aemodels.steps.train import train

    settings = load_settings(read_text(TRAIN[2:]))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, "save_state")
        with pytest.raises(KeyboardInterrupt):
            finish(train(settings, digits, group="first"))
    finish(train(settings, digits, group="second"))
    (run,) = runs(folder, "training")
    assert run.data.tags["pipeline"] == "second"


@pytest.mark.slow
def test_another_name_is_another_run(folder: Path) -> None:
    interrupted_training("save_state", command=[*TRAIN, "registry.name=one"])
    other = done(call(*TRAIN, "registry.name=other"))
    one = done(call(*TRAIN, "registry.name=one"))
    connected = client(folder)
    for name, told in (("one", one), ("other", other)):
        run = connected.get_run(told["run_id"])
        assert run.info.experiment_id == connected.get_experiment_by_name(name).experiment_id
        assert run.data.tags["registry.name"] == name
        assert told["model"] == name


@pytest.mark.slow
def test_the_same_command_after_the_end_is_a_new_run(folder: Path) -> None:
    first, second = done(call(*TRAIN)), done(call(*TRAIN))
    assert (first["version"], second["version"]) == (1, 2)
    assert first["run_id"] != second["run_id"]
    assert second["folder"] == f"{first['folder']}-2"
    weights = [(Path(told["folder"]) / "weights.safetensors").read_bytes() for told in (first, second)]
    assert weights[0] == weights[1]
    assert len(runs(folder, "training")) == 2


def test_a_damaged_checkpoint_is_named_and_its_remedy_helps(folder: Path) -> None:
    interrupted_training("save_state", at=2)
    (state,) = (folder / "runs").glob("*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-20])
    refused = call(*TRAIN)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{state}: damaged checkpoint" in refused.stderr
    assert f"delete the folder {state.parent}" in refused.stderr
    assert versions(folder) == []
    assert [run.info.status for run in runs(folder, "training")] == ["FAILED"]
    shutil.rmtree(state.parent)
    assert done(call(*TRAIN))["version"] == 1


@pytest.mark.slow
def test_a_metric_that_is_not_finite_spoils_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aemodels.steps.train as step

    real = step.evaluating

    def without_error(*arguments: Any, **named: Any) -> Any:
        judged = yield from real(*arguments, **named)
        return judged._replace(metrics={**judged.metrics, "psnr": float("inf"), "ssim": float("nan")})

    monkeypatch.setattr(step, "evaluating", without_error)
    told = done(call(*TRAIN))
    assert told["test/psnr"] is None
    assert told["test/ssim"] is None
    assert [run.info.status for run in runs(folder, "training")] == ["FINISHED"]
    assert done(call(*TRAIN))["version"] == 2


def test_a_data_set_that_another_process_tracks_at_the_same_moment(
    store, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks for the data set, then writes it. Of two processes, one may meet the other's row."""
    from mlflow.exceptions import MlflowException

    from aemodels.tracking.run import start_run

    real, calls = store.client.log_inputs, []

    def late(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        real(*arguments)

    monkeypatch.setattr(store.client, "log_inputs", late)
    run = start_run(store, "digits", "late")
    run.dataset(digits)
    (tracked,) = store.client.get_run(run.id).inputs.dataset_inputs
    assert tracked.dataset.digest == digits.digest


def test_an_interrupted_search_leaves_no_trial_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aemodels.tuning.study import Study

    real, reported = Study.report, []

    def interrupted(study: Study, trial: Any, epoch: int, value: float) -> None:
        reported.append(trial.index)
        if len(reported) == 2:
            raise KeyboardInterrupt
        real(study, trial, epoch, value)

    search = ["tune", "--json", *TINY, "tuning.trials=3", "tuning.generation=3", "tuning.epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Study, "report", interrupted)
        assert call(*search).exit_code == 130
    assert [run.info.status for run in runs(folder, "search")] == ["KILLED"]
    assert sorted(run.info.status for run in runs(folder, "trial")) == ["FINISHED", "KILLED"]
    told = done(call(*search))
    assert len(told["trials"]) == 3
    assert [run.info.status for run in runs(folder, "search")] == ["FINISHED"]
    assert [run.info.status for run in runs(folder, "trial")] == ["FINISHED"] * 3
