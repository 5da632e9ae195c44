"""Runs that are killed, interrupted, damaged, repeated or started twice at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from flows.cli import app

TINY = ["model.trunk=mlp", "model.trunk.widths=[16]", "model.latent_dim=2", "training.images=200"]
TRAIN = ["train", "--json", *TINY, "training.epochs=3"]
LONG = ["train", "--json", *TINY, "training.epochs=12", "training.batch_size=16"]
TUNE = ["tune", "--json", *TINY, "tuning.trials=4", "tuning.generation=2", "tuning.epochs=3", "tuning.images=1000"]
TUNE += ["training.images=1000", "training.batch_size=16", "tuning.prune=false"]
CLOCK = {"train/seconds", "train/images_per_second"}  # metrics that no two runs share
PATIENCE = 120  # seconds that a command may take to come to its work


def call(*arguments: object) -> Any:
    """A command in this process."""
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


# ---------------------------------------------------------------- processes


def start(store: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A command in a process of its own, on one thread."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("aemodels")), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "AEMODELS_STORE": str(store), **environment},
        # a shell without job control starts what runs in its background deaf to Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it printed: JSON and nothing else."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out)


def stop(process: subprocess.Popen[str], how: signal.Signals, when: Callable[[], bool]) -> str:
    """Sends the signal as soon as the condition holds, while the process works; what it said."""
    deadline = time.monotonic() + PATIENCE
    while not when():
        assert process.poll() is None, f"ended too early: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "came to nothing"
        time.sleep(0.005)
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


def new_store(folder: Path, empty_database: Path) -> Path:
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def client(store: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def runs(store: Path, kind: str) -> list[Any]:
    connected = client(store)
    places = [experiment.experiment_id for experiment in connected.search_experiments()]
    return connected.search_runs(places, f"tags.kind = '{kind}'", order_by=["attributes.start_time"])


def versions(store: Path) -> list[int]:
    return sorted(int(version.version) for version in client(store).search_model_versions())


def history(store: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value); what was logged twice alike counts once."""
    connected = client(store)
    names = connected.get_run(run_id).data.metrics
    return {name: sorted({(m.step, m.value) for m in connected.get_metric_history(run_id, name)}) for name in names}


def registered_weights(store: Path, version: int = 1) -> bytes:
    """As the registry hands them out."""
    from aemodels.catalog import find
    from aemodels.store import open_store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(store))
        return (find(f"digits/{version}", open_store()) / "weights.safetensors").read_bytes()


# ---------------------------------------------------------------- two at once; killed, then interrupted


class Story(NamedTuple):
    """A command that ran twice at once, undisturbed; and was killed once, interrupted once and finished elsewhere."""

    undisturbed: Path  # the store
    answers: list[dict[str, Any]]
    store: Path
    interrupted: tuple[int, str, str, bool]  # exit code, standard error, status in MLflow, is there a checkpoint
    answer: dict[str, Any]


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """On a machine where nothing is prepared yet, not even the databases."""
    root = tmp_path_factory.mktemp("story")
    undisturbed, store, cache = root / "undisturbed", root / "killed", str(root / "cache")
    both = [start(undisturbed, *LONG, AEMODELS_CACHE=cache) for _ in range(2)]

    def tracked(epochs: int) -> Callable[[], bool]:
        def reached() -> bool:
            notes = list((store / "runs").glob("*/run.json"))
            return bool(notes) and json.loads(notes[0].read_text()).get("tracked", 0) >= epochs

        return reached

    stop(start(store, *LONG, AEMODELS_CACHE=cache), signal.SIGKILL, tracked(2))
    assert not tracked(12)()
    process = start(store, *LONG, AEMODELS_CACHE=cache)
    said = stop(process, signal.SIGINT, tracked(json.loads(_notes(store).read_text())["tracked"] + 2))
    (run,) = runs(store, "training")
    checkpoint = list((store / "runs").glob("*/state.safetensors"))
    interrupted = (process.returncode, said, run.info.status, bool(checkpoint))
    last = answer(start(store, *LONG, AEMODELS_CACHE=cache))
    return Story(undisturbed, [answer(one) for one in both], store, interrupted, last)


def _notes(store: Path) -> Path:
    (notes,) = (store / "runs").glob("*/run.json")
    return notes


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_interrupted_and_keeps_the_checkpoint(story: Story) -> None:
    code, said, status, checkpoint = story.interrupted
    assert code == 130
    assert "interrupted; the same command goes on where it was" in said
    assert "Traceback" not in said
    assert status == "KILLED"
    assert checkpoint


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(story: Story) -> None:
    assert registered_weights(story.store) == registered_weights(story.undisturbed)
    told, expected = story.answer, story.answers[0]
    same = [name for name in expected if name.startswith("test/")]
    assert [told[name] for name in same] == [expected[name] for name in same]
    assert told["seconds"] > 0
    config = Path("config.json")
    assert (Path(told["folder"]) / config).read_text() == (Path(expected["folder"]) / config).read_text()


@pytest.mark.slow
def test_a_killed_training_is_one_run_and_one_version(story: Story) -> None:
    (run,) = runs(story.store, "training")
    assert run.info.run_id == story.answer["run_id"]
    assert run.info.status == "FINISHED"
    assert versions(story.store) == [1]
    assert [path.name for path in (story.store / "runs").iterdir()] == [Path(story.answer["folder"]).name]
    assert not list((story.store / "runs").glob("*/*.partial"))
    found, expected = (
        history(story.store, run.info.run_id),
        history(story.undisturbed, story.answers[0]["run_id"]),
    )
    epochs = [name for name in expected if name.startswith(("train/", "val/"))]
    assert epochs
    for name in epochs:
        assert [step for step, _ in found[name]] == list(range(1, 13)), name
        if name not in CLOCK:
            assert found[name] == expected[name]


@pytest.mark.slow
def test_two_commands_at_once_do_not_harm_each_other(story: Story) -> None:
    first, second = story.answers
    assert {first["version"], second["version"]} == {1, 2}
    assert first["run_id"] != second["run_id"]
    assert first["folder"] != second["folder"]
    assert registered_weights(story.undisturbed, 1) == registered_weights(story.undisturbed, 2)
    same = [name for name in first if name.startswith("test/")]
    assert [first[name] for name in same] == [second[name] for name in same]
    assert [run.info.status for run in runs(story.undisturbed, "training")] == ["FINISHED"] * 2
    prepared = story.undisturbed.with_name("cache") / "prepared"
    assert len([path for path in prepared.iterdir() if path.is_dir()]) == 1


# ---------------------------------------------------------------- in this process


def interrupt_in(monkeypatch: pytest.MonkeyPatch, name: str, at: int = 1, after: bool = True) -> None:
    """Ctrl-C in, or right after, the n-th call of a function of the training step."""
    import aemodels.steps.train as step

    real, calls = getattr(step, name), []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) < at:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(step, name, interrupted)


def interrupted_training(name: str, at: int = 1, after: bool = True, command: list[str] = TRAIN) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, name, at, after)
        assert call(*command).exit_code == 130


@pytest.fixture
def folder(store) -> Path:
    """Of a fresh store."""
    return Path(store.uri.removeprefix("sqlite:///")).parent


@pytest.mark.parametrize(
    ("name", "after"),
    [("save_card", True), ("save_state", False), ("save_state", True), ("evaluate", False), ("register", True)],
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


def test_a_run_that_was_deleted_meanwhile_is_replaced_with_its_whole_history(folder: Path) -> None:
    interrupted_training("save_state", at=3)
    (run,) = runs(folder, "training")
    client(folder).delete_run(run.info.run_id)
    told = done(call(*TRAIN))
    assert told["run_id"] != run.info.run_id
    assert [step for step, _ in history(folder, told["run_id"])["train/seconds"]] == [1, 2, 3]


def test_a_run_that_goes_on_belongs_to_the_pipeline_that_goes_on(folder: Path, digits) -> None:
    from aemodels.config import read_text
    from aemodels.progress import finish
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


def test_a_metric_that_is_not_finite_spoils_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aemodels.steps.train as step

    real = step.evaluate

    def without_error(*arguments: Any, **named: Any) -> Any:
        judged = real(*arguments, **named)
        return judged._replace(metrics={**judged.metrics, "psnr": float("inf"), "ssim": float("nan")})

    monkeypatch.setattr(step, "evaluate", without_error)
    told = done(call(*TRAIN))
    assert told["test/psnr"] is None
    assert told["test/ssim"] is None
    assert [run.info.status for run in runs(folder, "training")] == ["FINISHED"]
    assert done(call(*TRAIN))["version"] == 2


def test_a_data_set_that_another_process_tracks_at_the_same_moment(
    store, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks for the data set, then writes it: of two processes, one may meet the other's row."""
    from mlflow.exceptions import MlflowException

    from aemodels.tracking import start_run

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
    from aemodels.tuning_study import Study

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


# ---------------------------------------------------------------- a search that is killed


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path, empty_database: Path) -> None:
    store, left = new_store(tmp_path / "killed", empty_database), new_store(tmp_path / "left", empty_database)

    query = "SELECT count(*) FROM trials WHERE state = 'RUNNING' AND number >= 2"

    def in_the_second_generation() -> bool:
        if not (store / "optuna.db").exists():
            return False
        with closing(sqlite3.connect(f"file:{store / 'optuna.db'}?mode=ro", uri=True, timeout=10)) as database:
            try:
                return database.execute(query).fetchall() == [(1,)]
            except sqlite3.OperationalError:  # no tables yet
                return False

    undisturbed = start(left, *TUNE)
    stop(start(store, *TUNE), signal.SIGKILL, in_the_second_generation)
    assert len(runs(store, "trial")) >= 2
    told, expected = answer(start(store, *TUNE)), answer(undisturbed)

    def found(answered: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(t["index"], t["state"], t["params"], t["values"]) for t in answered["trials"]]

    assert found(told) == found(expected)
    assert (told["best"], told["front"]) == (expected["best"], expected["front"])
    (parent,) = runs(store, "search")
    assert (parent.info.run_id, parent.info.status) == (told["run_id"], "FINISHED")
    children, others = runs(store, "trial"), runs(left, "trial")
    assert sorted(int(child.data.tags["trial"]) for child in children) == list(range(4))
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.status for child in children} == {"FINISHED"}
    for child, other in zip(_by_trial(children), _by_trial(others), strict=True):
        mine, theirs = history(store, child.info.run_id), history(left, other.info.run_id)
        assert mine["val/objective"] == theirs["val/objective"]
        assert mine["objective"] == theirs["objective"]


def _by_trial(children: list[Any]) -> list[Any]:
    return sorted(children, key=lambda child: int(child.data.tags["trial"]))
