"""Tests monitoring: it raises no alarm on images of the same kind, and an alarm on others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import COLLECTIONS

from aemodels.config import UserError
from aemodels.data.sprites import Sprite, draw_factors, render
from aemodels.evaluation.drift import (
    CodeSpace,
    MonitoringConfig,
    Scores,
    anomalies,
    check_scores,
    fewest,
    population_stability,
)

OTHERS = COLLECTIONS / "rgb_folder"


def scores(rng: np.random.Generator, n: int, shift: float = 0.0) -> Scores:
    return Scores(rng.gamma(4, 0.01, n) + shift, rng.chisquare(8, n))


# ---------------------------------------------------------------- the tests


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_was_asked() -> None:
    """The test asks for 5 % of false alarms, and counts them in 2,000 checks, give or take 4 standard deviations."""
    rng, config = np.random.default_rng(0), MonitoringConfig(false_alarms=0.05, stability=0, anomalies=0)
    alarms = sum(bool(check_scores(scores(rng, 200), scores(rng, 100), config).reasons) for _ in range(2_000))
    assert 0 < alarms <= 100 + 4 * np.sqrt(2_000 * 0.05 * 0.95)


@pytest.mark.slow
def test_the_number_of_anomalies_is_judged_exactly() -> None:
    rng = np.random.default_rng(1)
    p = np.array([anomalies(rng.random(50), rng.random(30), 0.9)[1] for _ in range(4_000)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level / 4_000)
    assert (p <= 0.2).mean() > 0.1  # not by never being small
    share, certain = anomalies(rng.random(50), rng.random(30) + 1, 0.9)
    assert share == 1
    assert certain < 1e-10


def test_a_difference_that_is_certain_but_small_is_no_alarm() -> None:
    rng = np.random.default_rng(2)
    test, new = scores(rng, 10_000), scores(rng, 10_000, shift=0.003)
    verdict = check_scores(test, new, MonitoringConfig())
    assert verdict.numbers["error/p"] < 1e-5
    assert verdict.reasons == ()
    assert check_scores(test, scores(rng, 10_000, shift=0.01), MonitoringConfig()).reasons


def test_distances_know_units_that_never_vary() -> None:
    codes = np.random.default_rng(3).normal(size=(500, 4)) * [1, 10, 0, 1]
    space = CodeSpace(codes)
    d = space.distances(codes)
    assert np.isfinite(d).all()
    assert 1.5 < d.mean() < 2.0  # of three units that vary: the mean of a chi distribution is 1.6
    for same in (np.zeros((5, 2)), np.full((5, 2), 0.3), np.full((1, 2), 0.3)):  # or of one image alone
        space = CodeSpace(same)
        assert space.distances(same[:1]) == pytest.approx(0, abs=1e-3)
        assert 1e3 < space.distances(same[:1] + 1) < 1e9


def test_stability_is_zero_for_the_same_and_large_for_others() -> None:
    x = np.random.default_rng(4).normal(size=5_000)
    assert population_stability(x, x) < 1e-3
    assert population_stability(x, x + 1) > 0.5


def test_too_few_images_tell_nothing() -> None:
    config = MonitoringConfig()
    assert [fewest(m, config) for m in (20, 269, 10_000)] == [6, 3, 2]
    rng = np.random.default_rng(5)
    n = fewest(269, config)
    far = Scores(np.full(n, 9.0), np.full(n, 99.0))
    assert check_scores(scores(rng, 269), far, config).reasons
    assert not check_scores(scores(rng, 269), Scores(far.errors[1:], far.distances[1:]), config).reasons


# ---------------------------------------------------------------- real digits


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Any]]:
    """Checks images (N, H, W) against the champion of scikit-learn's digits."""
    from aemodels.runtime.progress import finish
    from aemodels.settings import Settings
    from aemodels.steps.monitor import monitor
    from aemodels.steps.prepare import prepare
    from aemodels.steps.train import train
    from aemodels.tracking.registry import promote
    from aemodels.tracking.store import open_store

    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(folder / "store"))
        settings = Settings().override({"training.epochs": 30, "model.trunk.widths": [128], "registry.name": "watched"})
        trained = finish(train(settings, finish(prepare(settings)), group=""))
        promote(open_store(), "watched", trained.version.version)
        counter = iter(range(10_000))

        def check(images: Any) -> Any:
            place = folder / f"new{next(counter)}"
            save(images, place)
            return finish(monitor("watched", [place], MonitoringConfig()))

        yield check


def save(images: Any, folder: Path) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04}.png")


@pytest.fixture
def held_out(digits: Any) -> Any:
    """Returns digits (N, H, W) that were not trained on and are not the test images."""
    return digits.split("val").images[:, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_images_of_the_same_kind_raise_no_alarm(watched: Callable[[Any], Any], held_out: Any) -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        chosen = rng.choice(len(held_out), rng.integers(20, 200), replace=False)
        checked = watched(held_out[chosen])
        assert checked.reasons == ()
        assert checked.figures == ()  # MLflow has them: an hourly check leaves nothing on this disk


@pytest.mark.slow
def test_what_has_come_long_ago_does_not_hide_what_comes_now(
    watched: Callable[[Any], Any], held_out: Any, tmp_path: Path
) -> None:
    """One image in 30 of the folder is unlike the others, and one in 12 of the newest."""
    from aemodels.runtime.progress import finish
    from aemodels.steps.monitor import monitor

    many = np.tile(held_out, (5, 1, 1))[:1200]
    save(many, tmp_path / "new" / "old")
    save(np.concatenate([held_out[:200], 255 - held_out[:40]]), tmp_path / "new" / "today")
    for file in (tmp_path / "new" / "old").iterdir():
        os.utime(file, (0, 0))
    assert watched(many[:500]).reasons == ()
    newest = finish(monitor("watched", [tmp_path / "new"], MonitoringConfig()))
    assert (newest.images, newest.drift) == (500, True)
    assert not finish(monitor("watched", [tmp_path / "new"], MonitoringConfig(newest=1440))).drift


@pytest.mark.slow
@pytest.mark.parametrize(
    "drift",
    [
        lambda x: 255 - x,
        lambda x: np.rot90(x, axes=(1, 2)),
        lambda x: np.random.default_rng(7).permutation(x.reshape(len(x), -1).T).T.reshape(x.shape),
        lambda x: np.stack([render(Sprite(*row), 28)[0] for row in draw_factors(len(x), 0).tolist()]),
        lambda x: np.clip(x.astype(int) + np.random.default_rng(8).normal(0, 60, x.shape), 0, 255).astype(np.uint8),
    ],
    ids=["inverted", "rotated", "shuffled", "another data set", "noisy"],
)
def test_each_drift_raises_an_alarm(watched: Callable[[Any], Any], held_out: Any, drift: Any) -> None:
    result = watched(np.ascontiguousarray(drift(np.asarray(held_out[:60]))))
    assert result.drift
    assert not result.repeated
    assert [figure.stem for figure in result.figures] == ["distributions", "worst"]
    assert result.retraining is None  # no folders: it alarms only


@pytest.mark.slow
def test_files_whose_white_is_lower_than_their_formats_are_a_likely_cause(
    watched: Callable[[Any], Any], held_out: Any
) -> None:
    result = watched(held_out[:60].astype(np.uint16) * 16)  # 12 bits in files of 16
    assert result.drift
    (told,) = [reason for reason in result.reasons if reason.startswith("a likely cause: the brightest pixel of these")]
    assert "data.levels" in told
    assert result.notes == ()
    assert not any("cause" in reason for reason in watched(255 - held_out[:60]).reasons)


@pytest.mark.slow
def test_files_that_are_no_such_images_are_named(watched: Callable[[Any], Any], held_out: Any, tmp_path: Path) -> None:
    from aemodels.runtime.progress import finish
    from aemodels.steps.monitor import announced, monitor

    told = "2 new images are too few: at least 3 are needed; found: 2 image files"
    assert watched(held_out[:2]).reasons == (told,)
    save(held_out[:40], tmp_path / "new")
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    (tmp_path / "new" / ".hidden").mkdir()
    (tmp_path / "new" / ".hidden" / "x.png").write_bytes(b"no image")
    result = finish(monitor("watched", [tmp_path / "new"], MonitoringConfig()))
    assert (result.images, result.drift, len(result.unfit)) == (40, False, 1)
    assert "broken.png" in result.unfit[0]
    for i in range(5):
        (tmp_path / "new" / f"broken{i}.png").write_bytes(b"no image")
    result = finish(monitor("watched", [tmp_path / "new"], MonitoringConfig()))
    assert result.drift
    assert "6 of 46 files cannot be read as images of the model's shape" in result.reasons[0]
    assert result.retraining is None  # of files that no training could read
    assert not finish(monitor("watched", [tmp_path / "new"], MonitoringConfig())).repeated  # nothing went out
    announced(result)
    assert finish(monitor("watched", [tmp_path / "new"], MonitoringConfig())).repeated
    for i in range(5, 51):
        (tmp_path / "new" / f"broken{i}.png").write_bytes(b"no image")
    assert not finish(monitor("watched", [tmp_path / "new"], MonitoringConfig())).repeated  # twice as many
    with pytest.raises(UserError, match="nobody: no such registered model"):
        finish(monitor("nobody", [tmp_path / "new"], MonitoringConfig()))


@pytest.mark.usefixtures("watched")
def test_the_command_says_so_by_its_exit_code(held_out: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flows.cli.main import app

    save(held_out[:50], tmp_path / "same")
    save(255 - held_out[:50], tmp_path / "other")
    codes = {name: CliRunner().invoke(app, ["monitor", "watched", str(tmp_path / name)]) for name in ("same", "other")}
    assert [codes[name].exit_code for name in codes] == [0, 3]
    assert "no alarm" in codes["same"].stdout
    assert "ALARM" in codes["other"].stdout
    missing = CliRunner().invoke(app, ["monitor", "watched", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "nowhere: there is no such file or folder" in missing.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (COLLECTIONS / "MNIST").exists(), reason="no MNIST here")
def test_mnist_drifts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out digits raise no alarm in 20 checks. Inverted and turned digits do, and so do photographs."""
    from aemodels.runtime.progress import finish
    from aemodels.settings import load_settings
    from aemodels.steps.monitor import monitor
    from aemodels.steps.prepare import prepare
    from aemodels.steps.train import train
    from aemodels.tracking.registry import promote
    from aemodels.tracking.store import open_store

    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("AEMODELS_DATA", str(COLLECTIONS))
    settings = load_settings({"training.epochs": 2}, ["article-vae", "fast"])
    data = finish(prepare(settings))
    trained = finish(train(settings, data, group=""))
    promote(open_store(), settings.registered_name, trained.version.version)
    held_out, rng = np.asarray(data.split("val").images[:, 0]), np.random.default_rng(9)
    photographs = np.stack([np.asarray(Image.open(f).convert("L").resize((28, 28))) for f in OTHERS.rglob("*.jpg")])

    def alarm(name: str, images: Any) -> bool:
        save(images, tmp_path / name)
        return bool(finish(monitor(settings.registered_name, [tmp_path / name], MonitoringConfig())).drift)

    for i in range(20):
        chosen = rng.choice(len(held_out), rng.integers(20, 300), replace=False)
        assert not alarm(f"same{i}", held_out[chosen])
    chosen = held_out[rng.choice(len(held_out), 100, replace=False)]
    assert alarm("inverted", 255 - chosen)
    assert alarm("rotated", np.ascontiguousarray(np.rot90(chosen, axes=(1, 2))))
    assert alarm("photographs", photographs[:100])
