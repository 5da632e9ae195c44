"""Tests the study of a search: a killed one ends like an undisturbed one; its notes, identity and database."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from places import ROOT
from searches import CONFIG, EXPERIMENT, NAMES, facts, run

from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.tuning.events import TrialEnded, TrialEpoch
from aemodels.tuning.opening import open_study
from aemodels.tuning.storage import open_storage
from aemodels.tuning.task import Task

WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
)


# ---------------------------------------------------------------- killed and resumed


class Killed(BaseException):
    """Stands for kill -9 between two writes; no handler may catch it."""


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
def test_killed_before_any_write(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.override({"trials": 5, "epochs": 2})
    _, whole = run(digits, config)
    for moment in count(0, 3):  # every third write; the writes of three trials are out of step with that
        name = next(NAMES)
        with monkeypatch.context() as patch:
            killed = killed_at_write(patch, moment, lambda name=name: run(digits, config, name=name))
        if not killed:
            break
        _, resumed = run(digits, config, name=name)
        assert facts(resumed) == facts(whole), f"killed before write {moment}"
    assert moment > 30


@pytest.mark.usefixtures("pretended")
def test_killed_again_and_again(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.override({"trials": 5, "epochs": 2})
    _, whole = run(digits, config)
    name = next(NAMES)
    killed = [True]
    while killed[-1]:
        with monkeypatch.context() as patch:
            killed.append(killed_at_write(patch, 17, lambda: run(digits, config, name=name)))
    _, resumed = run(digits, config, name=name)
    assert sum(killed) > 2
    assert facts(resumed) == facts(whole)


def killed_at_write(patch: pytest.MonkeyPatch, moment: int, action: Any) -> bool:
    """Runs an action, and tells whether it was killed before that write to the storage."""
    left = iter(range(moment, -1, -1))

    def dying(real: Any) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            if next(left, -1) <= 0:
                raise Killed
            return real(*args, **kwargs)

        return write

    for name in WRITES:
        patch.setattr(RDBStorage, name, dying(getattr(RDBStorage, name)))
    try:
        action()
    except Killed:
        return True
    return False


@pytest.mark.usefixtures("pretended")
def test_finished_search_is_told_again(digits: PreparedData) -> None:
    name = next(NAMES)
    _, first = run(digits, name=name)
    events, again = run(digits, name=name)
    assert again == first
    assert all(not isinstance(event, TrialEpoch) and event.replayed for event in events)
    assert [event.trial for event in events if isinstance(event, TrialEnded)] == first.trials


REAL_KILLS = """
import json, os, signal, sys, threading
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import searches as t
from aemodels.data import prepare
from aemodels.data.digits import DigitsConfig
from aemodels.runtime.progress import finish

data = finish(prepare(DigitsConfig()))
config = t.TuningConfig(trials=4, generation=2, prune_after=0.3)

def child(action):
    if not (pid := os.fork()):
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_after(events):
    steps = t.search(t.open_study("killed", t.Task(t.SMALL, config, data)), None)
    for _ in range(events):
        next(steps)
    threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for _ in steps:
        pass

codes = [child(lambda: killed_after(events)) for events in (1, 4, 12, 9)]
_, resumed = t.run(data, config, t.SMALL, name="killed")
_, whole = t.run(data, config, t.SMALL, name="whole")
print(json.dumps({"codes": codes, "resumed": t.facts(resumed), "whole": t.facts(whole)}))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_kill_9() -> None:
    """Real trainings are really killed, in a process whose threads do not mind a fork."""
    command = [sys.executable, "-c", REAL_KILLS, str(ROOT / "tests")]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["codes"] == [-9] * 4
    assert answer["resumed"] == answer["whole"]
    assert {trial["state"] for trial in answer["whole"]} <= {"complete", "pruned"}


# ---------------------------------------------------------------- what is kept, and where


def test_notes_are_kept(digits: PreparedData) -> None:
    study = open_study("notes", Task(EXPERIMENT, CONFIG, digits))
    assert study.notes() == {}
    study.remember("run", "abc")
    assert open_study("notes", Task(EXPERIMENT, CONFIG, digits)).notes() == {"run": "abc"}


def test_damaged_database(digits: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"not a database.*move .*optuna\.db away"):
        open_study("x", Task(EXPERIMENT, CONFIG, digits))
    with pytest.raises(UserError, match=r"check postgresql://me:\*\*\*@nowhere\.invalid/x") as raised:
        open_storage("postgresql://me:secret@nowhere.invalid/x?password=secret")
    assert "secret" not in str(raised.value)


def test_identity(digits: PreparedData) -> None:
    identity = Task(EXPERIMENT, CONFIG, digits).identity("a")
    assert identity == Task(EXPERIMENT.override({}), CONFIG.override({}), digits).identity("a")
    others = [
        Task(EXPERIMENT, CONFIG, digits).identity("b"),
        Task(EXPERIMENT, CONFIG, digits.model_copy(update={"digest": "d2"})).identity("a"),
        Task(EXPERIMENT, CONFIG.override({"trials": 9}), digits).identity("a"),
        Task(EXPERIMENT.override({"seed": 1}), CONFIG, digits).identity("a"),
    ]
    assert len({identity, *others}) == 5
