"""Tests that whoever reads a command's output may stop, and that only one place prints."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from quick import first

from aemodels.checkpoints.run_folder import COMMAND as COMMAND_ASKS
from aemodels.checkpoints.run_folder import RunFolder
from flows.cli import results
from flows.cli.exit_codes import MENDABLE, UNREAD
from flows.cli.streams import _guarded

COMMAND = [sys.executable, "-m", "flows.cli.main"]
PRINTS = {"flows/terminal.py"}  # what may print; a message beside the result: flows/cli/session.py, by `tell` alone


def read_and_leave(arguments: list[str], letters: int, environment: dict[str, str]) -> tuple[int, bytes]:
    """Returns the exit code and standard error of a command whose reader closes the pipe after some letters."""
    ours, its = os.pipe()
    running = subprocess.Popen(
        [*COMMAND, *arguments], stdout=its, stderr=subprocess.PIPE, cwd=ROOT, env=os.environ | environment
    )
    os.close(its)
    if letters:
        assert os.read(ours, letters)
    os.close(ours)
    _, errors = running.communicate(timeout=120)
    return running.returncode, errors


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("buffered", first(1, ["", "1"]), ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("letters", first(1, [0, 1]))
@pytest.mark.parametrize(
    "command",
    first(2, [["models", "--json"], ["--help"], ["models"], ["settings", "--json"], ["settings"], ["train", "--help"]]),
    ids=" ".join,
)
def test_a_command_whose_reader_leaves_ends_without_a_word(command: list[str], letters: int, buffered: str) -> None:
    code, errors = read_and_leave(command, letters, {"PYTHONUNBUFFERED": buffered})
    assert code in (0, UNREAD)
    assert errors == b""
    if not letters:
        assert code == UNREAD


@pytest.mark.parametrize("buffered", first(1, ["", "1"]), ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", first(1, [["--help"], ["settings", "seed"], ["settings", "--json"]]), ids=" ".join)
def test_results_that_cannot_be_written_are_told_in_a_sentence(command: list[str], buffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, env=environment)
    assert done.returncode == MENDABLE
    words = b"error: standard output: cannot be written (No space left on device); send it to another place\n"
    assert done.stderr == words


def test_a_command_works_where_its_caller_has_closed_standard_output() -> None:
    command = f"{shlex.join(COMMAND)} settings seed >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_result_is_told_only_where_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.asked_for(COMMAND_ASKS)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", _guarded(None, ends=True))  # as Python has it after `>&-`
        print("the result")
        results.told(tmp_path)
        sys.stdout.close()
    assert folder.asked_by(COMMAND_ASKS)
    results.told(tmp_path)
    assert not folder.asked_by(COMMAND_ASKS)


@pytest.mark.slow
def test_work_goes_on_where_nobody_reads_of_its_progress(tmp_path: Path) -> None:
    ours, its = os.pipe()
    os.close(ours)
    places = {"AEMODELS_STORE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "prepare", "data=sprites", "data.count=100", "data.image_size=8", "--json"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=its, env=os.environ | places, timeout=120, check=False
    )
    os.close(its)
    assert done.returncode == 0
    assert b'"sizes"' in done.stdout


def test_only_one_place_prints() -> None:
    """Printed elsewhere, texts from outside would be read as markup, or act on the terminal."""
    found = [
        (str(path.relative_to(ROOT)), ast.unparse(node))
        for path in [*(ROOT / "flows").rglob("*.py"), *(ROOT / "aemodels").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _prints(node)
    ]
    found = [(name, call) for name, call in found if name not in PRINTS]
    assert found == [("flows/cli/session.py", "typer.echo(visible(message), err=True)")]


def _prints(call: ast.Call) -> object:
    name = ast.unparse(call.func)
    return name.rpartition(".")[2] in ("print", "echo", "secho", "Console", "rprint") or re.match(
        r"sys\.std\w+\.write", name
    )


def test_the_place_that_prints_reads_no_markup() -> None:
    tree = ast.parse((ROOT / "flows" / "terminal.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (console,) = [call for call in calls if ast.unparse(call.func) == "Console"]
    columns = [call for call in calls if ast.unparse(call.func) == "TextColumn"]
    assert columns
    for call in (console, *columns):
        assert {"markup": "False"}.items() <= {word.arg: ast.unparse(word.value) for word in call.keywords}.items()
    assert "emoji" in {word.arg for word in console.keywords}
