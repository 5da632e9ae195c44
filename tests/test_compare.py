"""A comparison: what it takes, that it goes on where it was killed, and that its table says what its runs say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import pytest
from chromium import KEPT, started
from PIL import Image

from aemodels.catalog import find_report
from aemodels.comparison import ComparisonConfig, comparisons, load_comparison, merged
from aemodels.comparison_figures import MARGIN, NORMAL, PANELS, side_by_side
from aemodels.comparison_table import Measured, as_markdown, make_table
from aemodels.config import SettingsError
from aemodels.data import PreparedData
from aemodels.devices import best_device, described
from aemodels.evaluation import EvaluationConfig
from aemodels.metrics import METRICS
from aemodels.models import AEConfig, VAEConfig
from aemodels.models.base import ModelConfig
from aemodels.nets import MLPConfig
from aemodels.pictures import Picture
from aemodels.progress import Progress, finish
from aemodels.settings import presets
from aemodels.steps.compare import Compared, check, compare
from aemodels.store import Store

SHARED = {
    "model": {"trunk": {"name": "mlp", "widths": [16]}, "latent_dim": 3},
    "training": {"epochs": 2, "images": 200},
    "evaluation.samples": 100,
}
SYSTEMS = {name: {"model.name": name} for name in ("ae", "vae", "gan")}
COMMAND = "aemodels compare three.json --seeds 2"
TWO = [(seed, name) for seed in (0, 1) for name in SYSTEMS]


def comparison(**changes: Any) -> ComparisonConfig:
    return ComparisonConfig.parse({"shared": SHARED, "systems": SYSTEMS, "seeds": 2, **changes})


class Done(NamedTuple):
    """A comparison that was interrupted in its fourth training, and given again."""

    compared: Compared
    trained: list[str]  # what was worked on, before and after
    store: Store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, digits: PreparedData) -> Iterator[Done]:
    from aemodels.store import open_store

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
    """Of the system's runs, as MLflow has them."""
    return [done.store.client.get_run(run_id).data.metrics for run_id in done.compared.runs[system]]


# ---------------------------------------------------------------- what it leaves


def test_means_and_spreads_are_those_of_the_runs(done: Done) -> None:
    table = done.compared.table
    assert [row.system for row in table.rows] == list(SYSTEMS)
    assert table.metrics[0] == "frechet_samples"
    for row in table.rows:
        runs = metrics_of(done, row.system)
        assert len(runs) == 2
        tested = {name.removeprefix("test/") for name in runs[0] if name.startswith("test/")}
        assert row.scores.keys() == tested
        for name, score in row.scores.items():
            values = [run[f"test/{name}"] for run in runs]
            assert score.values == pytest.approx(values)
            assert score.mean == pytest.approx(fmean(values))
            assert score.spread == pytest.approx(stdev(values))
        assert row.seconds.mean == pytest.approx(fmean(run["seconds"] for run in runs))
    assert "mse" in table.metrics
    assert "mse" not in table.rows[2].scores  # a GAN reconstructs nothing


def test_tables_for_people_and_machines_say_the_same(done: Done) -> None:
    folder, table = done.compared.folder, done.compared.table
    assert json.loads((folder / "table.json").read_text()) == table.model_dump(mode="json")
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert header == ["metric", "unit", *SYSTEMS]
    assert [row[0].split()[0] for row in rows] == [*table.metrics, "validation", "training"]
    assert rows[0][:2] == ["frechet_samples ↓", METRICS["frechet_samples"].unit]
    gan = {row[0]: row[-1] for row in rows}
    assert (gan["mse ↓"], gan["validation loss"]) == ("–", "–")
    best = min(table.rows, key=lambda row: row.scores["frechet_samples"].mean).system
    assert [name for name, cell in zip(SYSTEMS, rows[0][2:], strict=True) if cell.startswith("**")] == [best]
    assert table.best("frechet_samples") == (best,)


def test_the_table_says_how_it_came_about(done: Done, digits: PreparedData) -> None:
    told = (done.compared.folder / "table.md").read_text().splitlines()[-1]
    made_with = f"aemodels {version('aemodels')}, torch {version('torch')}, {described(best_device())}"
    assert told == f"Made by `{COMMAND}`: seeds 0 to 1; digits, digest {digits.digest}; {made_with}."
    assert json.loads((done.compared.folder / "table.json").read_text())["origin"] == told


def test_the_validation_loss_is_that_of_the_last_epoch(done: Done) -> None:
    for row, loss in zip(done.compared.table.rows, ("distortion", "objective", None), strict=True):
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
    rows = len(SYSTEMS) + 1
    panels, left = [], 104  # under the title and beside the names; a cell has 28 pixels, twice, and a gap
    for images in PANELS.values():
        panels.append(picture[36 : 36 + rows * 58, left : left + images * 58])
        left += images * 58 - 2 + MARGIN
    filled = [[bool(panel[i * 58 + 4 : i * 58 + 52].min() < 250) for panel in panels] for i in range(rows)]
    original, vae, gan = [True, False, False, True], [True, True, False, True], [False, True, False, False]
    assert filled == [original, [True] * 4, vae, gan]


def test_codes_from_another_prior_have_a_panel_where_a_system_has_such_a_prior(digits: PreparedData) -> None:
    def picture(*configs: ModelConfig) -> Picture:
        models = {config.name: config.build(digits.image_shape, digits.num_classes) for config in configs}
        judged = {name: EvaluationConfig().evidence(model, digits, None, "test") for name, model in models.items()}
        return side_by_side(judged, "title")

    small = MLPConfig(widths=(16,))
    without, with_it = picture(VAEConfig(trunk=small)), picture(AEConfig(trunk=small))
    assert with_it.shape[1] - without.shape[1] == PANELS[NORMAL] * 58 - 2 + MARGIN


def test_the_report_has_every_metric_and_system(done: Done) -> None:
    page = done.compared.report.read_text()
    assert "<script" not in page
    for row in done.compared.table.rows:
        assert f'<th scope="row">{row.system}</th>' in page
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


# ---------------------------------------------------------------- the table alone


def test_the_best_is_marked_by_the_metrics_direction_where_there_is_a_choice() -> None:
    metrics: Mapping[str, dict[str, float]] = {
        "a": {"mse": 0.1, "ssim": 0.5, "frechet_floor": 1.0, "rate": 3.0},
        "b": {"mse": 0.2, "ssim": 0.7, "frechet_floor": 1.0, "rate": 0.0},
        "c": {"mse": math.nan, "ssim": 0.7, "frechet_floor": 1.0},
    }
    found = {name: [Measured(metrics=values, seconds=1)] for name, values in metrics.items()}
    table = make_table(found, "ssim")
    assert table.metrics == ("ssim", "rate", "mse", "frechet_floor")
    assert [table.best(name) for name in table.metrics] == [("b", "c"), (), ("a",), ()]
    told = as_markdown(table, "title")
    assert "| metric | unit | a | b | c |" in told
    assert "| ssim ↑ | at most 1 | 0.5 | **0.7** | **0.7** |" in told
    assert "| rate | nats per image | 3 | 0 | – |" in told  # codes that tell nothing are not the best ones
    assert "| training | seconds | 1 | 1 | 1 |" in told
    assert "One seed" in told
    assert "validation" not in told  # none has such a loss, so there is none to explain


def test_numbers_that_are_not_finite_are_kept_and_shown() -> None:
    measured = Measured(metrics={"mse": math.nan, "psnr": math.inf}, seconds=1)
    kept = Measured.model_validate(json.loads(json.dumps(measured.model_dump(mode="json"))))
    assert math.isnan(kept.metrics["mse"])
    table = make_table({"a": [kept, kept], "b": [kept, kept]}, "mse")
    assert table.best("mse") == ()
    assert "| psnr ↑ | dB | inf ± nan | inf ± nan |" in as_markdown(table, "title")


def test_nats_of_different_likelihoods_are_not_ranked() -> None:
    mixed = make_table(
        {
            "a": [Measured(metrics={"distortion": 1, "mse": 0.2}, seconds=1, likelihood="gaussian")],
            "b": [Measured(metrics={"distortion": 2, "mse": 0.1}, seconds=1, likelihood="bernoulli")],
            "c": [Measured(metrics={}, seconds=1)],
        },
        "mse",
    )
    assert (mixed.best("distortion"), mixed.best("mse")) == ((), ("b",))


# ---------------------------------------------------------------- what it takes


def test_the_article_has_all_of_its_systems() -> None:
    article = load_comparison([], {}, ["article"])
    names = "mlp-ae conv-ae vae vae-conv cvae gan vae-gan denoising-ae"
    assert list(article.settings) == names.split()
    assert {settings.training.epochs for settings in article.settings.values()} == {10}
    assert {settings.data.name for settings in article.settings.values()} == {"mnist"}
    assert article.settings["conv-ae"].training.weight_decay > 0  # of its preset
    assert article.settings["denoising-ae"].training.corruption.name == "gaussian"
    assert not presets().keys() & comparisons().keys()
    again = ComparisonConfig.model_validate_json(article.model_dump_json())
    assert again.settings == article.settings


@pytest.mark.parametrize("name", comparisons())
def test_every_comparison_can_be_made(name: str) -> None:
    assert len(load_comparison([], {}, [name]).settings) > 1


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


def test_depth_differs_in_what_is_compared_alone() -> None:
    """One deep network, plain and with what mends it; the epochs of all layers together are as many."""
    systems = load_comparison([], {}, ["depth"]).settings
    deep, pretrained, normalized = (systems[name].flat() for name in ("deep", "deep-pre-trained", "deep-batch-norm"))
    assert {key for key in deep if deep[key] != pretrained[key]} == {"training.pretraining_epochs"}
    assert {key for key in deep if deep[key] != normalized[key]} == {"model.trunk.normalization"}
    assert {settings.training.epochs for settings in systems.values()} == {5}
    assert {settings.model.latent_dim for settings in systems.values()} == {16}


def test_presets_files_and_comparisons_together(tmp_path: Path) -> None:
    file = tmp_path / "wide.json"
    file.write_text(json.dumps({"model": {"name": "vae", "latent_dim": 40}}))
    config = load_comparison([str(file), "article-vae", "article"], {"data": "digits"}, ["fast"], seeds=3)
    assert len(config.settings) == 10
    assert config.seeds == 3
    assert {settings.data.name for settings in config.settings.values()} == {"digits"}
    assert {settings.training.precision for settings in config.settings.values()} == {"bfloat16"}
    assert config.settings["wide"].model.latent_dim == 40
    assert config.experiment("wide", 2).seed == 2


def test_changes_are_merged_as_settings_are() -> None:
    mnist = {"data": {"name": "mnist", "binarize": "static"}}
    assert merged(mnist, {"data": "digits"}) == {"data": "digits"}
    assert merged(mnist, {"data.name": "mnist", "data.image_size": 32})["data"]["binarize"] == "static"
    assert merged({"data": "mnist"}, {"data.binarize": "static"}) == mnist
    assert merged({"training.epochs": 1}, {"training": {"epochs": 2}, "seed": 1}) == {
        "training": {"epochs": 2},
        "seed": 1,
    }


WRONG = {
    "one system": ({"systems": {"vae": {}}}, "at least two systems, here is vae"),
    "none": ({"systems": {}}, "here is none"),
    "unknown preset": ({"systems": {"a": "article-vea", "b": {}}}, "system a: --preset article-vea: .*article-vae"),
    "unknown setting": ({"systems": {"a": {"model.betta": 2}, "b": {}}}, "system a: model.betta=2: .*model.beta"),
    "name": ({"systems": {"a/b": {}, "b": {}}}, "'a/b' is no name"),
    "data": (
        {"systems": {"a": {"data": "mnist"}, "b": {}}},
        "data: not the same .*a has name=mnist, b has name=digits",
    ),
    "budget": (
        {"shared": {}, "systems": {"a": {"training.epochs": 3}, "b": {}}},
        "training.epochs: .*a has 3, b has 20",
    ),
    "judge": ({"systems": {"a": {"evaluation.seed": 3}, "b": {}}}, "evaluation: not the same .*seed=3"),
    "seed": ({"shared": {"seed": 4}}, "give --seeds"),
    "seeds": ({"seeds": 0}, "seeds=0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_refused(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(SettingsError, match=message):
        comparison(**changes)


def test_a_system_that_does_not_fit_the_images_is_named(store: Store, digits: PreparedData) -> None:
    config = comparison(shared=SHARED | {"evaluation.primary": "mse"})
    with pytest.raises(SettingsError, match=r"system gan: evaluation.primary=mse: needs autoencoder"):
        finish(compare(config, digits))
    assert store.client.search_experiments(filter_string="name != 'Default'") == []


def test_two_systems_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="digits: two systems have this name"):
        load_comparison(["digits", "digits"], {})
    twice = tmp_path / "twice.json"
    twice.write_text('{"systems": {"a": {}, "a": {}}}')
    with pytest.raises(SettingsError, match="two entries are named 'a'"):
        load_comparison([str(twice)], {})


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="article-vea: unknown; did you mean article-vae"):
        load_comparison(["article-vea", "digits"], {})
    with pytest.raises(SettingsError, match=r"none.json: there is no such file"):
        load_comparison([str(tmp_path / "none.json")], {})
    with pytest.raises(SettingsError, match="--preset artcle: unknown; did you mean article"):
        load_comparison([], {}, ["artcle"])
