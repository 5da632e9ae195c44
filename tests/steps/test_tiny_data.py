"""Tests that a handful of images goes all the way, and that whatever cannot be made says why."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from commands import save, shell

from aemodels.config import SettingsError, UserError
from aemodels.data import PreparedData
from aemodels.data import prepare as prepare_data
from aemodels.data.folder import FolderConfig
from aemodels.evaluation.drift import MonitoringConfig, fewest
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError, as_tags
from aemodels.evaluation.metrics import METRICS
from aemodels.reports.figures.model import FIGURES
from aemodels.runtime.progress import Steps, finish
from aemodels.settings import ComparisonConfig, Settings
from aemodels.steps.compare import compare
from aemodels.steps.monitor import Monitored, _too_few_known, monitor
from aemodels.steps.prepare import prepare
from aemodels.steps.promote import promote
from aemodels.steps.train import Trained, train
from aemodels.steps.tune import tune
from aemodels.tracking.catalog import get
from aemodels.tracking.registry import promote as crown
from aemodels.tracking.store import Store

MODELS = "ae", "vae", "cvae", "iwae", "vae_gan", "gan"
SIZES = 7, 8, 10, 13
KINDS = "labelled", "plain", "single", "alike", "alike and labelled"
EVERY = [  # each model with each kind that it takes, and each of them with each size
    *(
        (model, SIZES[(i + j) % len(SIZES)], kind)
        for (i, model), (j, kind) in product(enumerate(MODELS), enumerate(KINDS))
        if model != "cvae" or kind not in ("plain", "alike")
    ),
    *(("cvae", 8, "labelled"), ("cvae", 13, "single"), ("vae", 13, "plain"), ("ae", 8, "alike")),
]
SOME = [EVERY[i] for i in (0, 6, 12, 15, 21, 27)]  # each model, each kind and each size
TINY = {"model.trunk": {"name": "mlp", "widths": [16]}, "model.latent_dim": 3}
TINY |= {"training.epochs": 1, "evaluation.samples": 100}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().images * 15.9


def folder_of(root: Path, images: np.ndarray, size: int, kind: str) -> Path:
    """Makes a folder of so many images: with two classes, with none, with one image a class, or nearly alike."""
    for i in range(size):
        pixels = images[i]
        if kind.startswith("alike"):
            pixels = images[0].copy()
            pixels[0, 0] = i  # equal ones would all lie in one split
        label = {"plain": "", "alike": "", "single": f"class {min(i, 3)}"}.get(kind, "ab"[i % 2])
        save(root / kind / label / f"{i}.png", pixels)
    return root / kind


def settings_of(folder: Path, model: str, **changes: object) -> Settings:
    return Settings().override(
        TINY | {"data": {"name": "folder", "path": str(folder)}, "model.name": model, "registry.name": "tiny"} | changes
    )


def trained(settings: Settings) -> tuple[Trained, PreparedData]:
    """Trains a model. Any warning of a library is an error here; it ends the run, or is left out with its reason."""
    data = finish(prepare(settings))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="mlflow")  # of its own code, at its import
        return finish(train(settings, data, group="")), data


def check(model: str, size: int, kind: str, images: np.ndarray, store: Store, root: Path) -> None:
    settings = settings_of(folder_of(root, images, size, kind), model)
    result, data = trained(settings)
    assert min(data.sizes.values()) >= 1
    assert "test/frechet_samples" in result.metrics
    assert np.isfinite(list(result.metrics.values())).all()
    assert {"samples", "training_curves"} < {path.stem for path in result.figures}
    if data.sizes["test"] == 1:
        assert {"density", "coverage"} <= result.left_out.keys()  # of one test image there is no neighbour
    page, tags = result.report.read_text(), store.client.get_run(result.run_id).data.tags
    for name, reason in result.left_out.items():
        assert reason.startswith("it needs ")  # nothing failed
        assert reason in page
        assert tags[f"left_out.{name}"] == reason
        assert f"test/{name}" not in result.metrics
        assert name not in {path.stem for path in result.figures}
    version = get(store, "tiny", result.version.version)
    left_out = {name: reason for name, reason in result.left_out.items() if name in METRICS}
    assert as_tags(left_out).items() == {(key, tag) for key, tag in version.tags.items() if key.startswith("left_out.")}
    decision = finish(promote(settings, data, result.version))
    assert decision.promoted or "mean image" in decision.reason or "linear code" in decision.reason  # it was judged


@pytest.mark.parametrize(("model", "size", "kind"), SOME, ids=lambda value: str(value).replace(" ", "_"))
def test_a_handful_of_images_is_trained_judged_drawn_and_registered(
    model: str, size: int, kind: str, images: np.ndarray, store: Store, tmp_path: Path
) -> None:
    check(model, size, kind, images, store, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size", "kind"), [case for case in EVERY if case not in SOME])
def test_every_handful_of_images_is_registered(
    model: str, size: int, kind: str, images: np.ndarray, store: Store, tmp_path: Path
) -> None:
    check(model, size, kind, images, store, tmp_path)


# ---------------------------------------------------------------- mistakes in the program, and what the gate says


def test_a_mistake_in_any_metric_or_figure_ends_no_run(
    images: np.ndarray, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistakes: list[object]
) -> None:
    """Each of a model's metrics and figures fails, and so do the pictures of each epoch."""

    def fail(*_: object) -> NoReturn:
        raise IndexError("a list\nof lines")

    settings = settings_of(folder_of(tmp_path, images, 13, "labelled"), "vae")
    ordinary, _ = trained(settings.override({"seed": 1}))
    for name, metric in METRICS.items():
        monkeypatch.setitem(METRICS, name, metric._replace(measure=fail))
    for name, kind in FIGURES.items():
        monkeypatch.setitem(FIGURES, name, kind._replace(draw=fail))
    monkeypatch.setattr("aemodels.steps.train.sample_grid", fail)
    result, data = trained(settings)
    assert not result.metrics
    assert not result.figures
    wanted = {key.removeprefix("test/") for key in ordinary.metrics} | {path.stem for path in ordinary.figures}
    assert result.left_out.keys() == wanted | ordinary.left_out.keys()
    told = result.left_out["frechet_samples"]
    assert told.startswith("the program failed at it with IndexError: a list (test_tiny_data.py, line ")
    assert told in result.report.read_text()
    tags = store.client.get_run(result.run_id).data.tags
    assert tags["left_out.frechet_samples"] == tags["left_out.card of samples"] == told
    assert len(mistakes) == len(wanted) + 2  # the card before the first epoch and after it
    decision = finish(promote(settings, data, result.version))
    mistakes.clear()
    assert not decision.promoted
    assert decision.reason.startswith(f"the challenger cannot be judged by frechet_samples, since {told}; ")


def test_a_champion_that_cannot_be_judged_stays(
    images: np.ndarray, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person promoted it. Its challenger has the metric that it lacks, and any value would be better than none."""
    champion = 3  # its latent size, by which it is known

    def refuse(evidence: Evidence) -> Any:
        if evidence.model.latent_dim == champion:
            raise NotEnoughError("needs other images")
        return measure(evidence)

    settings = settings_of(folder_of(tmp_path, images, 13, "labelled"), "gan", **{"registry.tolerance": 1e6})
    first, _ = trained(settings)
    crown(store, "tiny", first.version.version)
    second, data = trained(settings.override({"model.latent_dim": 2}))
    measure = METRICS["frechet_samples"].measure
    monkeypatch.setitem(METRICS, "frechet_samples", METRICS["frechet_samples"]._replace(measure=refuse))
    decision = finish(promote(settings, data, second.version))
    assert not decision.promoted
    assert decision.reason == "the champion cannot be judged by frechet_samples, since it needs other images"


@pytest.mark.parametrize("work", [train, tune])
@pytest.mark.parametrize("primary", ["coverage", "explained_variance"])
def test_a_primary_that_one_image_cannot_give_is_refused_before_any_work(
    work: Callable[..., Steps[object]], primary: str, images: np.ndarray, store: Store, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, images, 13, "labelled")
    save(tmp_path / "one" / "a" / "0.png", images[13])
    changes = {"evaluation.primary": primary, "data.val_path": [str(tmp_path / "one")]}
    settings = settings_of(folder, "vae", **changes)
    data = finish(prepare(settings))
    with pytest.raises(
        SettingsError, match=f"evaluation.primary={primary}: needs 2 val images or more, .*; choose from"
    ):
        finish(work(settings, data, group=""))
    assert not store.client.search_experiments(filter_string="name = 'tiny'")


def test_a_search_whose_goal_cannot_be_measured_says_why(images: np.ndarray, store: Store, tmp_path: Path) -> None:
    """There are enough validation images, but they are all the same."""
    folder = folder_of(tmp_path, images, 20, "plain")
    for i in range(4):
        save(tmp_path / "same" / f"{i}.png", images[20])
    changes = {"evaluation.primary": "explained_variance", "data.val_path": [str(tmp_path / "same")]}
    settings = settings_of(folder, "vae", **changes, **{"tuning.trials": 2})
    with pytest.raises(
        UserError, match="explained_variance cannot be measured on the validation images: it needs images"
    ):
        finish(tune(settings, finish(prepare(settings)), group=""))
    assert store.client.get_experiment_by_name("tiny")


@pytest.mark.slow
def test_a_search_and_a_comparison_go_through_mistakes_in_their_figures(
    images: np.ndarray, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistakes: list[object]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError("of nothing")

    for place in ("reports.figures.search._history", "steps.compare.side_by_side", "steps.compare.rate_distortion"):
        monkeypatch.setattr(f"aemodels.{place}", fail)
    settings = settings_of(folder_of(tmp_path, images, 7, "plain"), "vae", **{"tuning.trials": 2})
    data = finish(prepare(settings))
    tuned = finish(tune(settings, data, group=""))
    assert tuned.left_out.keys() == {"history"}
    assert [path.stem for path in tuned.figures] == ["contour"]
    shared = {key: value for key, value in settings.model_dump(mode="json").items() if key in ("data", "registry")}
    systems = {f"beta-{beta}": {"model.beta": beta} for beta in (1, 2, 3)}
    compared = finish(compare(ComparisonConfig.parse({"shared": shared | TINY, "systems": systems}), data))
    assert compared.picture is None
    assert compared.curve is None
    assert compared.left_out.keys() == {"comparison", "rate_distortion"}
    page, table = compared.report.read_text(), (compared.folder / "table.md").read_text()
    assert "the program failed at it with ZeroDivisionError: of nothing" in page
    told = "coverage of beta-1, beta-2, beta-3 was left out: it needs 2 test images or more; the data have 1."
    assert told in page
    assert told in table
    assert len(mistakes) == 3
    mistakes.clear()
    assert store.client.get_run(compared.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("count", [3, 6])
def test_fewer_images_are_refused_with_the_remedy(count: int, images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{count} images are too few for data.test_fraction=0.15 and .*at least 7"):
        finish(prepare(settings_of(folder_of(tmp_path, images, count, "plain"), "vae")))


def test_a_split_whose_only_image_cannot_be_read_is_named(images: np.ndarray, tmp_path: Path) -> None:
    """A broken image is not drawn, so a split has no other one only where it was given so."""
    folder = folder_of(tmp_path, images, 7, "plain")
    (folder / "3.png").write_bytes(b"no image")
    for seed in range(20):
        sizes = finish(prepare_data(FolderConfig(path=(folder,), on_error="skip", split_seed=seed))).sizes
        assert sum(sizes.values()) == 6
        assert min(sizes.values()) >= 1
    given = tmp_path / "given"
    save(given / "0.png", images[7])
    (given / "1.png").write_bytes(b"no image")
    (given / "0.png").write_bytes((folder / "0.png").read_bytes())
    config = FolderConfig(path=(folder,), val_path=(given,), test_path=(tmp_path / "test",), on_error="skip")
    save(tmp_path / "test" / "0.png", images[0])  # of which the one in val is a copy
    told = r"no image that belongs to val can be used \(2 unreadable images skipped: .*1.png, .*3.png\)"
    with pytest.raises(UserError, match=told):
        finish(prepare_data(config))


# ---------------------------------------------------------------- new images


@pytest.fixture
def champion(images: np.ndarray, store: Store, tmp_path: Path) -> Path:
    """Returns the folder of the champion, a model of 20 images that are nearly alike, and whose test images are."""
    folder = folder_of(tmp_path, images, 20, "alike")
    for i in range(6):
        save(tmp_path / "test" / f"{i}.png", images[0])
    result, _ = trained(settings_of(folder, "vae", **{"data.test_path": [str(tmp_path / "test")]}))
    crown(store, "tiny", result.version.version)
    return folder


def watched(folder: Path, **settings: object) -> Monitored:
    """Compares a folder's images with the champion's; a warning of a library is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return finish(monitor("tiny", [folder], MonitoringConfig().override(settings)))


@pytest.mark.slow
def test_images_that_are_all_the_same_are_compared_without_a_warning(
    champion: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """A model of such images gives scores that do not vary. The command prints no warning of a library either."""
    same, others = tmp_path / "more", tmp_path / "others"
    for i in range(200):
        save(same / f"{i}.png", images[0])
        save(others / f"{i}.png", images[1 + i % 2])
    result = watched(same)
    assert (result.drift, result.images, result.left_out) == (False, 200, {})
    assert np.isfinite(list(result.numbers.values())).all()
    result = watched(others)
    assert result.drift
    assert [path.stem for path in result.figures] == ["distributions", "worst"]
    assert np.isfinite(list(result.numbers.values())).all()
    for folder, code in ((same, 0), (others, 3)):
        told = shell("monitor", "tiny", folder, cwd=tmp_path)
        assert told.code == code
        assert "Warning" not in told.err
        assert told.err.startswith("checking")
    assert champion.exists()


def test_a_champion_of_one_test_image_can_never_tell() -> None:
    assert fewest(1, MonitoringConfig()) > MonitoringConfig().newest
    told = _too_few_known("tiny/1", 1, MonitoringConfig())
    assert told.startswith("new images cannot be compared with tiny/1, which has too few test images (1): at least 2 ")
    assert fewest(2, MonitoringConfig()) <= MonitoringConfig().newest
    told = _too_few_known("tiny/1", 5, MonitoringConfig(newest=1))
    assert told.endswith(
        f": at least {fewest(5, MonitoringConfig())} new images are needed, and monitoring.newest=1 looks at fewer"
    )


def test_a_check_says_why_nothing_is_new(champion: Path) -> None:
    (champion / "broken.png").write_bytes(b"no image")
    os.utime(champion / "broken.png", (0, 0))  # the oldest
    told = watched(champion, anomalies=0.5).reasons[0]
    assert told.startswith("0 new images are too few: at least ")
    assert " are needed; found: 21 image files; 1 cannot be read as images of the model's shape, such as " in told
    assert "broken.png" in told
    assert told.endswith("; 20 are among the images that the model was made from")
    told = watched(champion, newest=5).reasons[0]
    few = r"new images cannot be compared with tiny/1, which has too few test images \(\d\): at least \d+ are needed"
    assert re.match(few, told)
