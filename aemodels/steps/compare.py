"""Trains and evaluates several systems in one parent run, with a child run per system and seed, and compares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from aemodels.checkpoints.checkpoint import load_model
from aemodels.checkpoints.run_folder import RunFolder, claimed
from aemodels.config import SettingsError
from aemodels.data import PreparedData
from aemodels.evaluation.evaluate import check_primary, evaluate, lacking
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features, features_of
from aemodels.evaluation.key_metrics import shown_in
from aemodels.evaluation.leaving_out import Made, NotEnoughError, as_tags, make_each
from aemodels.evaluation.metrics import METRICS
from aemodels.evaluation.references import Size, reference_systems
from aemodels.experiment import Experiment
from aemodels.reports.figures.comparison import CURVE, SIDE_BY_SIDE, rate_distortion, side_by_side
from aemodels.reports.page import Contest, Subject, write_comparison
from aemodels.reports.pictures import Picture
from aemodels.reports.table import Measured, Table, as_markdown, make_table
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device, described
from aemodels.runtime.files import write_whole
from aemodels.runtime.hashes import hash_of
from aemodels.runtime.progress import Driven, Progress, Steps
from aemodels.settings import ComparisonConfig
from aemodels.steps.recording import (
    FINISHED_BEFORE,
    Result,
    draw_model,
    keep_figures,
    keep_report,
    open_run,
    still_there,
)
from aemodels.steps.train import check_surroundings, learn
from aemodels.steps.training import Untrained
from aemodels.texts import code_in_markdown, in_markdown
from aemodels.tracking.origin import versions
from aemodels.tracking.run import Run
from aemodels.tracking.store import open_store
from aemodels.training.models import new_model

T = TypeVar("T")


class Compared(Result):
    """Holds what a finished comparison found, and where its files and runs are."""

    run_id: str
    url: str
    compare_url: str
    """Links to MLflow's page that shows the systems side by side, those of the first seed and the best one first."""
    table: Table
    runs: dict[str, tuple[str, ...]]
    """Maps a system to the ids of its runs, one for each seed."""
    folder: Path
    """Holds table.md, table.json, and under systems/ each trained model with its report, by system and seed."""
    picture: Path | None
    """Shows reconstructions, samples and interpolations of all systems; it is null where it could not be drawn."""
    curve: Path | None
    """Shows rate, distortion and samples of systems that differ in beta alone; it is null where fewer than three do."""
    report: Path
    """Names one file for a browser, with the picture, the table and the settings."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Maps each picture of the comparison that could not be drawn to the reason."""


class _Child(Result):
    """Holds what is kept of a system that was trained and evaluated with one seed."""

    run_id: str
    measured: Measured


def check(config: ComparisonConfig) -> None:
    """Checks what can be known before the images are looked at.

    Raises:
        SettingsError: the search space does not fit.
        UserError: the device does not work, the MLflow server does not answer, or torchrun started this.
    """
    torchrun.refuse("a comparison")
    check_surroundings(next(iter(config.settings.values())))


def compare(config: ComparisonConfig, data: PreparedData, command: str = "", asker: str = "") -> Steps[Compared]:
    """Trains and evaluates every system with every seed, or goes on where it was killed; registers nothing.

    Args:
        command: the command that a person gave, which the table quotes; "" where there was none.
        asker: who asks, such as the id of a flow run; as for a training.

    Raises:
        SettingsError: a model does not fit the images.
        TrainingDivergedError: a term of a loss is not finite.
    """
    experiments = {name: config.experiment(name, 0).for_data(data) for name in config.systems}
    for system, experiment in experiments.items():  # before any work, and anything recorded
        _check_fits(system, experiment, data)
    features = yield from features_of(data, best_device())
    name = next(iter(config.settings.values())).listed_name
    store = open_store()
    with claimed(_identity(config, f"{name}{data.digest}{features.hash}"), asker, still_there(store)) as folder:
        if folder.result is not None:
            yield Progress("comparing", 1, 1, FINISHED_BEFORE)
            return Compared.model_validate(folder.result)
        title, tags = f"compare {len(experiments)} systems", {"kind": "comparison"}
        with open_run(store, folder, name, title, 0, tags) as run:
            run.params({"seeds": config.seeds, "systems": list(config.systems), **_shared(experiments)})
            run.dataset(data, _shown(config))
            found = yield from _children(config, data, features, folder, run)
            compared = _finish(config, data, features, found, folder, run, command)
        folder.finish(compared.model_dump(mode="json"), asker)
    return compared


def _check_fits(system: str, experiment: Experiment, data: PreparedData) -> None:
    try:
        check_primary(
            new_model(experiment.model, data, 0, images=experiment.training.images), data, experiment.evaluation
        )
    except SettingsError as error:
        raise SettingsError(*(f"system {system}: {line}" for line in error.args)) from None


def _identity(config: ComparisonConfig, digest: str) -> str:
    """Returns the name of the comparison's folder: a hash of its settings, its systems in their order, and the data."""
    systems = [[name, each.experiment.model_dump(mode="json")] for name, each in config.settings.items()]
    return hash_of([systems, config.seeds, digest])[:12]


def _shared(experiments: Mapping[str, Experiment]) -> dict[str, object]:
    """Returns the settings that are the same in all systems."""
    first, *others = (experiment.flat() for experiment in experiments.values())
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _children(
    config: ComparisonConfig, data: PreparedData, features: Features, folder: RunFolder, parent: Run
) -> Steps[dict[str, list[_Child]]]:
    """Trains and evaluates every system with the first seed, then every system with the next one."""
    found: dict[str, list[_Child]] = {name: [] for name in config.systems}
    todo = [(seed, name) for seed, name in product(range(config.seeds), config.systems)]
    for done, (seed, name) in enumerate(todo):
        own = RunFolder(_place(folder.path, name, seed))
        if not own.finished:
            yield Progress("comparing", done, len(todo), name)
            steps = _child(name, config.experiment(name, seed).for_data(data), data, features, own, parent)
            child = yield from _entitled(steps, f"{name}, seed {seed}" if config.seeds > 1 else name)
            own.finish(child.model_dump(mode="json"))
        found[name].append(_Child.model_validate(own.notes()["result"]))
    yield Progress("comparing", len(todo), len(todo))
    return found


def _place(folder: Path, system: str, seed: int) -> Path:
    return folder / "systems" / f"{system}-{seed}"


def _child(
    system: str, experiment: Experiment, data: PreparedData, features: Features, folder: RunFolder, parent: Run
) -> Steps[_Child]:
    """Trains and evaluates one system with one seed, in a run of its own, with its own figures and report."""
    folder.path.mkdir(parents=True, exist_ok=True)
    model = new_model(experiment.model, data, experiment.seed, images=experiment.training.images)
    name = parent.store.client.get_experiment(parent.experiment_id).name
    tags = {"kind": "system", "system": system}
    with open_run(parent.store, folder, name, f"{system} {experiment.seed}", experiment.seed, tags, parent.id) as run:
        learned = yield from learn(experiment, data, features, folder, run, Untrained(model))
        run.metrics({"seconds": learned.seconds}, at=folder.time("evaluated"))
        drawn = yield from draw_model(learned.evaluation, experiment.evaluation, learned.advice, folder.path, run)
        subject = Subject(
            f"{system}, seed {experiment.seed}", "trained", run.id, experiment, data, experiment.training.images
        )
        drawn.report(subject, learned.evaluation, learned.advice, folder.path, run)
    likelihood = getattr(experiment.model, "likelihood", None)
    measured = Measured(
        metrics=learned.evaluation.metrics,
        seconds=learned.seconds,
        likelihood="" if likelihood is None else f"{likelihood.name}{', given the class' * model.conditional}",
        validation=_validation(learned.evaluation.evidence),
        made_with=_made_with(),
        left_out=learned.evaluation.left_out,
    )
    return _Child(run_id=run.id, measured=measured)


def _validation(evidence: Evidence) -> float | None:
    """Returns the validation loss after the last epoch that picks the best weights; None where none picks them."""
    selection = evidence.model.selection
    return evidence.history[-1][f"val/{selection}"] if selection else None


def _made_with() -> str:
    found = versions()
    software = [f"{name} {found[name]}" for name in ("aemodels", "torch") if name in found]
    return ", ".join([*software, described(best_device())])


def _entitled(steps: Steps[T], title: str) -> Steps[T]:
    """Adds to each report of progress which system is being trained or evaluated."""
    with Driven(steps) as driven:
        for report in driven:
            yield report._replace(work=f"{report.work.partition(' ')[0]} {title}")
    return driven.result


def _finish(
    config: ComparisonConfig,
    data: PreparedData,
    features: Features,
    found: dict[str, list[_Child]],
    folder: RunFolder,
    run: Run,
    command: str,
) -> Compared:
    """Writes the table, the pictures and the report into the folder and into the parent run."""
    experiments = {name: config.experiment(name, 0).for_data(data) for name in config.systems}
    rules = next(iter(experiments.values())).evaluation
    sizes = [Size(experiment.model.latent_dim, experiment.seen(data)) for experiment in experiments.values()]
    references = reference_systems(data, sizes, best_device(), rules, features)
    primary, measured = (
        rules.primary,
        {name: [child.measured for child in children] for name, children in found.items()},
    )
    asked = code_in_markdown(command) if command else f"a flow or a program, with the settings of MLflow's run {run.id}"
    beside = {name: [_reference(evidence)] for name, evidence in references.items()}
    table = make_table(measured | beside, primary, f"Made by {asked}: {_circumstances(config, data, measured)}.")
    title = f"{len(experiments)} systems on {_shown(config)}"
    _keep("table.md", as_markdown(table, title), folder.path, run)
    _keep("table.json", table.model_dump_json(indent=2), folder.path, run)
    pictures, left_out = _pictures(config, table, data, folder.path, references)
    run.tags(as_tags(left_out))
    kept = dict(zip(pictures, keep_figures(pictures, folder.path, run, _winner(table, primary)), strict=True))
    contest = Contest(title, run.id, experiments, data)
    report = keep_report(write_comparison(contest, table, pictures, left_out), folder.path, run)
    runs = {name: tuple(child.run_id for child in children) for name, children in found.items()}
    return Compared(
        run_id=run.id,
        url=run.url,
        compare_url=run.store.systems_url(run.experiment_id, run.id, title, primary, METRICS[primary].direction),
        table=table,
        runs=runs,
        folder=folder.path,
        picture=kept.get(SIDE_BY_SIDE),
        curve=kept.get(CURVE),
        report=report,
        left_out=left_out,
    )


def _winner(table: Table, primary: str) -> str:
    scores = {row.system: row.scores[primary].text for row in table.rows if primary in row.scores}
    return ", ".join(f"best {primary}: {in_markdown(name)} ({scores[name]})" for name in table.best(primary))


def _shown(config: ComparisonConfig) -> str:
    """Names the images for a person; they are the same for all systems."""
    return next(iter(config.settings.values())).experiment.data.title


def _circumstances(config: ComparisonConfig, data: PreparedData, measured: Mapping[str, list[Measured]]) -> str:
    """Says which seeds, images, versions and devices were used; the last two are several if it went on elsewhere."""
    seeds = "seed 0" if config.seeds == 1 else f"seeds 0 to {config.seeds - 1}"
    made_with = dict.fromkeys(each.made_with for runs in measured.values() for each in runs)
    return f"{seeds}; {data.name}, digest {data.digest}; {' and '.join(filter(None, made_with))}"


def _keep(file: str, text: str, folder: Path, run: Run) -> None:
    write_whole(folder / file, lambda path: path.write_text(text, encoding="utf-8"))
    run.text(file, text)


def _reference(evidence: Evidence) -> Measured:
    """Measures a reference, for which nothing was trained."""
    possible = [name for name in shown_in("references") if not lacking(name, evidence)]
    return Measured(metrics=evaluate(evidence, only=possible).metrics, seconds=0)  # the systems say why one is left out


def _pictures(
    config: ComparisonConfig, table: Table, data: PreparedData, folder: Path, references: Mapping[str, Evidence]
) -> Made[Picture]:
    """Draws the models of the first seed side by side, and the references below them."""

    def evidence(name: str) -> Evidence:
        model = load_model(_place(folder, name, 0), str(best_device())).model
        return Evidence(model, data, None, config.experiment(name, 0).evaluation)

    systems = {name: evidence(name) for name in config.systems}
    makers: dict[str, Callable[[], Picture]] = {
        SIDE_BY_SIDE: partial(
            side_by_side, {**systems, **references}, f"{len(systems)} systems on the test images of {_shown(config)}"
        )
    }
    if swept := config.swept():
        makers[CURVE] = partial(_curve, table, {name: systems[name] for name in swept})
    return make_each(makers)


def _curve(table: Table, systems: Mapping[str, Evidence]) -> Picture:
    """Draws rate against distortion of systems that differ in beta alone."""
    points: dict[str, tuple[float, float]] = {}
    for row in table.rows:
        if row.system in systems:
            if absent := {"rate", "distortion"} - row.scores.keys():
                raise NotEnoughError(f"needs the {' and the '.join(sorted(absent))} of {row.system}")
            points[row.system] = row.scores["rate"].mean, row.scores["distortion"].mean
    return rate_distortion(systems, points)
