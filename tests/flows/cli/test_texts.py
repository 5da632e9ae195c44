"""Tests that names, reasons, errors and times from outside are printed as they are."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from commands import Shop, call, save, shell

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.reports.page import Subject, write_report
from aemodels.texts import visible

NAMES = [
    "[edited] 1",
    "[red]2[",
    "[/data]",
    ":smile: 3",
    "\x1b[31m4",
    "\u732b",
    "a\nb",
    "\u202egnp.5",
    "<b>|`*_",
    "$x$",
]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f\u202e]")  # what acts on a terminal
WORDS = "see [/data] [red]x[/red] :smile: \x1b[31m *a* <b>"


@pytest.fixture
def pictures(in_shop: Shop, tmp_path: Path) -> list[str]:
    """Makes images below the working directory, in files whose names are hard to print."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(in_shop.images[0]))
    (tmp_path / "p").mkdir()
    files = [f"p/{name.replace('/', '')}.png" for name in NAMES]
    for file in files:
        save(tmp_path / "plain.png", pixels).rename(tmp_path / file)
    return files


def test_names_of_files_are_printed_as_they_are(pictures: list[str]) -> None:
    listed = call("score", "digits@champion", "p")
    assert listed.code == 0
    for file in pictures:
        assert f" {visible(file)} " in listed.out
    assert not RAW.search(listed.out)
    assert {row["file"] for row in call("score", "digits@champion", "p", "--json").json} == set(pictures)


@pytest.mark.slow
def test_a_name_that_is_no_unicode_is_printed(in_shop: Shop, tmp_path: Path) -> None:
    name = os.fsdecode(b"p/\xff\xfe.png")
    (tmp_path / "p").mkdir()
    (tmp_path / name).write_bytes(in_shop.images[0].read_bytes())
    listed = shell("score", "digits@champion", "p", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (listed.code, listed.err) == (0, "")
    assert r"p/\udcff\udcfe.png" in listed.out
    assert call("embed", "digits@champion", name, "-o", "codes.npz").code == 0


@pytest.mark.parametrize("name", NAMES)
def test_errors_name_files_as_they_are(name: str, in_shop: Shop) -> None:
    del in_shop
    refused = call("score", "digits@champion", f"no {name}")
    assert refused.code == 2
    assert visible(f"error: no {name}: there is no such file") in refused.err
    assert refused.err.count("\n") == 1  # a name begins no line
    assert not RAW.search(refused.err)


@pytest.mark.parametrize("arguments", [["models", "--\x07"], ["\x07"], ["ui", "\x07"]], ids=ascii)
def test_a_command_line_that_is_wrong_is_told_as_it_is(arguments: list[str]) -> None:
    refused = call(*arguments)
    assert refused.code == 2
    assert not RAW.search(refused.err)
    assert r"\x07" in refused.err


@pytest.mark.usefixtures("own_registry")
def test_a_reason_is_printed_as_it_is() -> None:
    assert call("promote", "digits", 2, "--reason", WORDS).code == 0
    assert call("rollback", "digits", "--reason", WORDS).code == 0
    told = call("history", "digits")
    assert told.code == 0, told.err
    assert " ".join(told.out.split()).count(visible(WORDS)) == 2
    assert call("models").code == 0
    assert call("history", "digits", "--json").json[-1]["reason"].endswith(WORDS)


def test_classes_are_printed_as_they_are(tmp_path: Path, own_store: Path) -> None:
    del own_store
    import numpy as np

    classes = [name.replace("/", "") for name in NAMES]
    rng = np.random.default_rng(0)
    for label in classes:
        for i in range(4):
            save(tmp_path / "images" / label / f"{i}.png", rng.integers(0, 256, (8, 8)))
    told = call("prepare", "data=folder", f"data.path={tmp_path / 'images'}")
    assert told.code == 0, told.err
    assert visible(", ".join(sorted(classes))) in told.out
    assert not RAW.search(told.out)


def test_a_check_tells_the_names_of_files(in_shop: Shop, tmp_path: Path) -> None:
    for name in ("[red]a", "[/b]"):
        (tmp_path / "new" / name).mkdir(parents=True)
        (tmp_path / "new" / name / "x.png").write_text("no image")
    del in_shop
    told = call("monitor", "digits", "new")
    assert told.code == 3, told.err
    assert "new/[red]a/x.png" in told.out.replace("\n", "") or "new/[/b]/x.png" in told.out.replace("\n", "")


# ---------------------------------------------------------------- times


@pytest.fixture(params=["Asia/Kolkata", "America/Caracas", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Sets a time zone, and yields the name by which a person reads it."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield {"Asia/Kolkata": "UTC+05:30", "America/Caracas": "UTC-04:00", "UTC": "UTC"}[request.param]
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_name_their_zone(zone: str, in_shop: Shop) -> None:
    for command, key in ((["models"], "created"), (["history", "digits"], "since")):
        for row in call(*command, "--json").json:
            moment = datetime.fromisoformat(row[key])
            assert moment.utcoffset() is not None
            there = datetime.fromtimestamp(moment.timestamp())
            assert f" {there:%Y-%m-%d %H:%M} {zone} " in call(*command).out
    report = Path(in_shop.trained[0]["report"]).read_text()  # written by a machine of another zone
    assert re.search(r"<time>\d{4}-\d\d-\d\d \d\d:\d\d UTC[+\-:0-9]*</time>", report)


def test_a_report_says_when_it_was_written(zone: str, digits: PreparedData) -> None:
    page = write_report(Subject("digits/3", "trained", "run0", Experiment(), digits), {}, {})
    written = re.search(r"<time>(\d{4}-\d\d-\d\d \d\d:\d\d) (UTC[+\-:0-9]*)</time>", page)
    assert written
    assert written[2] == zone
    there = datetime.strptime(written[1], "%Y-%m-%d %H:%M").timestamp()
    assert 0 <= time.time() - there < 120


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("command", "suffix"),
    [("embed", ".npz"), ("generate", ".png"), ("reconstruct", ".png"), ("report", ".html")],
)
def test_a_file_gets_exactly_the_name_that_was_given(command: str, suffix: str, in_shop: Shop, tmp_path: Path) -> None:
    images = [in_shop.images[0]] if command in ("embed", "reconstruct") else []
    few = ["-n", "1"] if command == "generate" else []
    out = tmp_path / "out"
    out.mkdir()
    named = [
        f"a{suffix}",
        f"A{suffix.upper()}",
        f"a.b c[1]{suffix}",
        suffix,
        f"x{suffix}{suffix.upper()}",
        "\u732b" + suffix,
    ]
    for name in named:
        done = call(command, "digits@champion", *images, *few, "-o", out / name)
        assert done.code == 0, done.err
        assert name in done.out
    assert sorted(path.name for path in out.iterdir()) == sorted(named)
    sizes = {path.read_bytes()[:4] for path in out.iterdir()}
    assert len(sizes) == 1  # all of one kind

    (out / f"folder{suffix}").mkdir()
    for name, why in {
        "none": f"must end in {suffix}",
        f"a{suffix}.tar": f"must end in {suffix}",
        f"folder{suffix}": "there is a folder of this name",
        f"missing/a{suffix}": "there is no folder",
    }.items():
        refused = call(command, "no@model", *images, *few, "-o", out / name)  # before the model is looked for
        assert refused.code == 2
        assert why in refused.err


def test_a_folder_of_images_takes_long_names(in_shop: Shop, tmp_path: Path) -> None:
    name = "\u732b" * 83 + ".png"
    (tmp_path / name).write_bytes(in_shop.images[0].read_bytes())
    assert call("denoise", "digits@champion", name, "-o", "new/clean").code == 0
    (clean,) = (tmp_path / "new" / "clean").iterdir()
    assert clean.name.startswith("00000-\u732b")
    refused = call("denoise", "no@model", name, "-o", f"{name}/clean")
    assert refused.code == 2
    assert "is a file" in refused.err


def test_codes_are_read_from_the_file_that_was_named(in_shop: Shop, tmp_path: Path) -> None:
    import numpy as np

    told = call("embed", "digits@champion", in_shop.images[0], "-o", "codes.NPZ", "--json").json
    assert told["out"] == "codes.NPZ"
    with np.load(tmp_path / "codes.NPZ") as codes:
        assert codes["codes"].shape == (1, 2)
    assert json.dumps(told)


@pytest.mark.usefixtures("own_registry")
def test_a_reason_that_is_no_unicode_is_kept() -> None:
    told = call("promote", "digits", 2, "--reason", "caf\udce9")
    assert told.code == 0, told.err
    assert r"caf\udce9" in call("history", "digits").out
