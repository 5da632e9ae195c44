"""Tests that a comparison goes on where it was killed, and that its table, picture and report match its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import pytest
from chromium import KEPT, started
from PIL import Image
from systems import SHARED, SYSTEMS, comparison

from aemodels.config import SettingsError
from aemodels.data import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.metrics import METRICS
from aemodels.models import VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.reports.figures.comparison import MARGIN, NORMAL, PANELS, side_by_side
from aemodels.reports.pictures import Picture
from aemodels.runtime.devices import best_device, described
from aemodels.runtime.progress import Progress, finish
from aemodels.settings import ComparisonConfig
from aemodels.steps.compare import Compared, check, compare
from aemodels.tracking.catalog import find_report
from aemodels.tracking.store import Store

COMMAND = "aemodels compare three.json --seeds 2"
REFERENCES = ("mean image", "linear code 3")
TWO = [(seed, name) for seed in (0, 1) for name in SYSTEMS]


class Done(NamedTuple):
    """Holds a comparison that was interrupted in its fourth training, and given again."""

    compared: Compared
    trained: list[str]  # what was worked on, before and after
    store: Store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, digits: PreparedData) -> Iterator[Done]:
    from aemodels.tracking.store import open_store

    worked: list[str] = []

    def until_the_fourth(report: Progress) -> None:
        worked.append(f"{report.work} {report.done}")
        if report.work == "training ae, seed 1" and report.done == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(tmp_path_factory.mktemp("comparisons")))
        config = comparison()
        check(config)
        with pytest.raises(KeyboardInterrupt):
            finish(compare(config, digits), until_the_fourth)
        steps = compare(config, digits, COMMAND)
        compared = finish(steps, lambda report: worked.append(f"{report.work} {report.done}"))
        yield Done(compared, worked, open_store())


def metrics_of(done: Done, system: str) -> list[dict[str, float]]:
    """Returns the metrics of the system's runs, as MLflow has them."""
    return [done.store.client.get_run(run_id).data.metrics for run_id in done.compared.runs[system]]


def test_means_and_spreads_are_those_of_the_runs(done: Done) -> None:
    table = done.compared.table
    assert [row.system for row in table.rows] == [*SYSTEMS, *REFERENCES]
    assert table.metrics[0] == "frechet_samples"
    for row in table.rows[: len(SYSTEMS)]:
        runs = metrics_of(done, row.system)
        assert len(runs) == 2
        tested = {name.removeprefix("test/") for name in runs[0] if name.startswith("test/")}
        tested = {name for name in tested if not name.endswith("_error")}
        assert row.scores.keys() == tested
        for name, score in row.scores.items():
            values = [run[f"test/{name}"] for run in runs]
            assert score.values == pytest.approx(values)
            assert score.mean == pytest.approx(fmean(values))
            assert score.spread == pytest.approx(stdev(values))
        assert row.seconds.mean == pytest.approx(fmean(run["seconds"] for run in runs))
    assert "mse" in table.metrics
    assert "mse" not in table.rows[2].scores  # a GAN reconstructs nothing


def test_the_references_stand_beside_the_systems_and_cost_nothing(done: Done) -> None:
    mean, linear = (row for row in done.compared.table.rows if row.system in REFERENCES)
    (first, *_) = metrics_of(done, "ae")
    assert mean.scores["mse"].mean == pytest.approx(first["test/mean_image_mse"])
    assert mean.scores["explained_variance"].mean == pytest.approx(0, abs=0.01)
    for name, metric in {"mse": "mse", "psnr": "psnr", "ssim": "ssim", "frechet_samples": "frechet"}.items():
        reference = f"test/linear_code_{metric}" if metric != "frechet" else "test/frechet_linear_code"
        assert linear.scores[name].mean == pytest.approx(first[reference])
    assert first["test/share_of_linear_code"] == pytest.approx(first["test/mse"] / linear.scores["mse"].mean)
    assert mean.seconds.mean == linear.seconds.mean == 0
    assert done.compared.runs.keys() == SYSTEMS.keys()  # they have no runs of their own


def test_tables_for_people_and_machines_say_the_same(done: Done) -> None:
    folder, table = done.compared.folder, done.compared.table
    assert json.loads((folder / "table.json").read_text()) == table.model_dump(mode="json")
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header == ["metric", "unit", *SYSTEMS, *REFERENCES]
    assert [row[0].split()[0] for row in rows] == [*table.metrics, "validation", "training"]
    assert rows[0][:2] == ["frechet_samples ↓", METRICS["frechet_samples"].unit]
    gan = {row[0]: row[4] for row in rows}
    assert (gan["mse ↓"], gan["validation loss"]) == ("–", "–")
    best = min(table.rows, key=lambda row: row.scores["frechet_samples"].mean).system
    assert [name for name, cell in zip(header[2:], rows[0][2:], strict=True) if cell.startswith("**")] == [best]
    assert table.best("frechet_samples") == (best,)


def test_the_table_says_how_it_came_about(done: Done, digits: PreparedData) -> None:
    told = (done.compared.folder / "table.md").read_text().splitlines()[-1]
    made_with = f"aemodels {version('aemodels')}, torch {version('torch')}, {described(best_device())}"
    assert told == f"Made by `{COMMAND}`: seeds 0 to 1; digits, digest {digits.digest}; {made_with}."
    assert json.loads((done.compared.folder / "table.json").read_text())["origin"] == told


def test_the_validation_loss_is_that_of_the_last_epoch(done: Done) -> None:
    for row, loss in zip(done.compared.table.rows, ("distortion", "objective", None), strict=False):
        last = [run[f"val/{loss}"] for run in metrics_of(done, row.system)] if loss else []
        assert (row.validation.values if row.validation else ()) == pytest.approx(tuple(last))


def test_every_system_has_a_report_and_figures_of_its_own(done: Done) -> None:
    for seed, name in TWO:
        folder = done.compared.folder / "systems" / f"{name}-{seed}"
        page = find_report(str(folder)).read_text()
        assert f"<h1>{name}, seed {seed}</h1>" in page
        assert ("Reconstructions of" in page) == (name != "gan")
        assert "Samples of" in page
        run_id = done.compared.runs[name][seed]
        kept = {file.path for file in done.store.client.list_artifacts(run_id, "figures")}
        assert kept == {f"figures/{path.name}" for path in (folder / "figures").iterdir()}
        assert "report.html" in {file.path for file in done.store.client.list_artifacts(run_id)}


def test_the_runs_are_children_of_one_parent(done: Done) -> None:
    client = done.store.client
    parent = client.get_run(done.compared.run_id)
    assert parent.data.tags["kind"] == "comparison"
    assert parent.info.status == "FINISHED"
    assert parent.data.params["training.epochs"] == "2"
    assert "model.name" not in parent.data.params  # not shared
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"table.md", "table.json", "report.html", "figures", "overview.png"} <= artifacts
    runs = client.search_runs([parent.info.experiment_id], "tags.kind = 'system'")
    assert {run.info.run_id for run in runs} == {run_id for ids in done.compared.runs.values() for run_id in ids}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["model.name"] == run.data.tags["system"]
        assert run.data.params["seed"] == run.info.run_name.split()[1]
    assert not client.search_registered_models()


def test_a_killed_comparison_goes_on_with_the_epoch_that_was_next(done: Done) -> None:
    trainings = [line for line in done.trained if ", seed" in line and not line.endswith(" 0")]
    trainings = [line for line in trainings if line.startswith("training")]
    expected = [f"training {name}, seed {seed} {epoch}" for seed, name in TWO for epoch in (1, 2, 2)]
    again = expected.index("training ae, seed 1 1")
    assert trainings == [*expected[: again + 1], expected[again], *expected[again + 1 :]]
    history = done.store.client.get_metric_history(done.compared.runs["ae"][1], "train/loss")
    assert [point.step for point in history] == [1, 2]


def test_seeds_differ_and_systems_share_them(done: Done) -> None:
    for system in SYSTEMS:
        first, second = metrics_of(done, system)
        assert first["test/frechet_samples"] != second["test/frechet_samples"]


def test_the_picture_is_empty_where_a_system_has_no_encoder(done: Done) -> None:
    picture = np.asarray(Image.open(done.compared.picture))
    rows = 1 + len(SYSTEMS) + len(REFERENCES)
    panels, left = [], 104  # under the title and beside the names; a cell has 28 pixels, twice, and a gap
    for images in PANELS.values():
        panels.append(picture[36 : 36 + rows * 58, left : left + images * 58])
        left += images * 58 - 2 + MARGIN
    filled = [[bool(panel[i * 58 + 4 : i * 58 + 52].min() < 250) for panel in panels] for i in range(rows)]
    original, whole, gan = [True, False, False, True], [True] * 4, [False, True, False, False]
    assert filled == [original, whole, whole, gan, whole, whole]


def test_codes_from_another_prior_have_a_panel_where_a_system_has_such_a_prior(digits: PreparedData) -> None:
    def picture(*configs: ModelConfig) -> Picture:
        models = {config.name: config.build(digits.image_shape, digits.num_classes) for config in configs}
        judged = {name: Evidence(model, digits, None, EvaluationConfig()) for name, model in models.items()}
        return side_by_side(judged, "title")

    small = MLPConfig(widths=(16,))
    without, with_it = picture(VAEConfig(trunk=small, draws_from="prior")), picture(VAEConfig(trunk=small))
    assert with_it.shape[1] - without.shape[1] == PANELS[NORMAL] * 58 - 2 + MARGIN


def test_the_report_has_every_metric_and_system(done: Done) -> None:
    page = done.compared.report.read_text()
    assert "<script" not in page
    for row in done.compared.table.rows:
        assert f'<th scope="col" class="number">{row.system}</th>' in page
    for system in SYSTEMS:
        assert f'<th scope="row">{system}</th>' in page
    assert page.count("± ") >= 10
    assert "model.name=gan" in page


@pytest.mark.browser
def test_the_report_is_read_at_a_desk_and_on_a_phone(done: Done) -> None:
    with started() as browser:
        for width in (1280, 375):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(done.compared.report.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            picture, narrow = page.get_by_alt_text("Side by side"), width < 1000
            natural = picture.evaluate("image => image.naturalWidth")
            for hint in ("Scroll a picture sideways", "Scroll the table sideways"):
                assert page.get_by_text(hint).is_visible() == narrow
            assert (picture.bounding_box()["width"] == natural > width) == narrow
            hidden = "box => box.scrollWidth > box.clientWidth && getComputedStyle(box).maskImage != 'none'"
            assert [box.evaluate(hidden) for box in page.locator(".sideways").all()] == [narrow, narrow]
            page.screenshot(path=KEPT / f"comparison-{width}.png", full_page=True)
            picture.click()
            assert picture.bounding_box()["width"] <= width  # all of it


@pytest.mark.slow
def test_systems_of_other_beta_make_a_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: PreparedData
) -> None:
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    betas = {f"beta-{beta}": {"model": {"name": "vae", "beta": beta}} for beta in (3, 0, 1)}
    config = comparison(systems={**betas, "ae": {"model.name": "ae"}}, seeds=1)
    assert config.swept() == list(betas)
    assert comparison(systems={"ae": {"model.name": "ae"}, **dict(list(betas.items())[:2])}).swept() == []
    compared = finish(compare(config, digits))
    rates = {row.system: row.scores["rate"].mean for row in compared.table.rows if "rate" in row.scores}
    assert sorted(rates, key=lambda name: rates[name]) == ["beta-3", "beta-1", "beta-0"]
    assert (
        f"Made by a flow or a program, with the settings of MLflow's run {compared.run_id}: " in compared.table.origin
    )
    assert compared.curve is not None
    Image.open(compared.curve).verify()
    assert "Rate and distortion" in compared.report.read_text()


def test_a_comparison_of_own_images_needs_no_name_as_it_registers_nothing(tmp_path: Path, store: Store) -> None:
    del store
    systems = {"narrow": {"model": {"latent_dim": 2}}, "wide": {"model": {"latent_dim": 3}}}
    for folder, name in {"my photos": "my-photos", "@": "folder"}.items():
        (tmp_path / folder).mkdir()
        shared = {"data": {"name": "folder", "path": str(tmp_path / folder)}}
        config = ComparisonConfig.parse({"shared": shared, "systems": systems})
        check(config)
        assert config.settings["wide"].listed_name == name
        with pytest.raises(SettingsError, match=r"registry\.name"):
            config.settings["wide"].require_name()


def test_a_system_that_does_not_fit_the_images_is_named(store: Store, digits: PreparedData) -> None:
    config = comparison(shared=SHARED | {"evaluation.primary": "mse"})
    with pytest.raises(SettingsError, match=r"system gan: evaluation.primary=mse: needs autoencoder"):
        finish(compare(config, digits))
    assert store.client.search_experiments(filter_string="name != 'Default'") == []
