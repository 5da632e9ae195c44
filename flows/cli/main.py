"""Defines the `aemodels` command. What a command needs is imported when it runs, so that help answers at once.

A single command calls the library's steps; the pipeline, and everything when PREFECT_API_URL is set, runs as a flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aemodels.texts import visible
from flows.cli.compare import compare
from flows.cli.exit_codes import DONE, DRIFTED
from flows.cli.options import (
    MODEL_HELP,
    Changes,
    ConfigFile,
    Count,
    ImageFiles,
    Json,
    Model,
    Name,
    Preset,
    Prior,
    Seed,
    Verbose,
)
from flows.cli.pages import report, serve, ui
from flows.cli.registry import history, models, promote, rollback
from flows.cli.session import (
    answering,
    keep_given,
    let_prefect_start,
    model_first,
    read_evaluation_settings,
    read_settings,
    start_for,
)
from flows.cli.streams import guarded

ABOUT = "Train, tune, compare, promote and use autoencoders on images. `aemodels settings` lists what can be set."


class Commands(TyperGroup):
    """Holds the commands; what is wrong with a command line is said as it was given."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "format_message"):  # one of Typer's, which prints it
                error.message = visible(error.message)  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    cls=Commands,
    help=ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_versions(asked: bool) -> None:
    if asked:
        from aemodels.tracking.origin import versions
        from flows import terminal

        for name, number in versions().items():
            terminal.sentence(f"{name} {number}")
        raise typer.Exit(DONE)


@app.callback()
def about(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    """Has the options of the command itself."""


# ---------------------------------------------------------------- the workflow


@app.command()
def pipeline(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Run all steps, from the images to a promoted model.

    It prepares the images, searches the settings, trains the best model, evaluates it and registers it. The gate then
    decides whether it becomes the champion.
    """
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config, start_for(json))
        from aemodels.steps.start import fixed
        from aemodels.steps.tune import check
        from flows import terminal
        from flows.cli import results

        settings = keep_given(fixed(settings), changes)
        check(settings)
        let_prefect_start()
        from flows.attempts import run_here
        from flows.pipeline import pipeline as flow

        with terminal.bars():
            result = run_here(flow, settings)
        results.pipeline(result, json)


@app.command()
def prepare(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Decode and split the images once, for all later runs."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
        from flows.cli import results, work

        results.prepared(work.prepare(settings), json)


@app.command()
def tune(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Search for the best settings by training several models.

    What varies is the latent size and the KL weight. One that you give stays as it is. tuning.space names others.
    """
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
        from aemodels.steps.start import fixed
        from aemodels.steps.tune import check
        from flows.cli import results, work

        settings = keep_given(fixed(settings), changes)
        check(settings)
        result = work.tune(settings)
        results.tuned(result, json)
        results.told(result.folder)


@app.command()
def train(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Train a model, evaluate it and register it."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config, start_for(json))
        from aemodels.runtime import torchrun
        from aemodels.steps.start import fixed
        from aemodels.steps.train import assist, check
        from flows.cli import results, work

        settings = fixed(settings)
        check(settings)
        if not torchrun.leads():
            from aemodels.steps.prepare import prepare
            from flows import terminal

            return assist(settings, terminal.follow(prepare(settings)))
        result = work.train(settings)
        results.trained(result, json)
        results.told(result.folder)


@app.command()
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [KEY=VALUE]...",
            help=f"{MODEL_HELP} Without one the champion is taken. KEY=VALUE changes a setting that its run had.",
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    json: Json = False,
    v: Verbose = False,
) -> None:
    """Evaluate a trained model again, or on other images."""
    with answering(v, computes=True):
        model, changes = model_first(arguments or [])
        if not model:
            model = f"{read_settings(changes, preset, config).registered_name}@champion"
        settings = read_evaluation_settings(changes, preset, config, start_for(json))
        from flows.cli import results, work

        results.evaluated(work.evaluate(model, settings), json)


@app.command()
def settings(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="[PREFIX]",
            help="List only settings that start with this text, or those of one variant, such as model.vae.",
        ),
    ] = "",
    json: Json = False,
) -> None:
    """List all settings with their defaults and units."""
    with answering(verbose=False):
        from aemodels.config import SettingsError
        from aemodels.settings import Settings
        from flows.cli import results
        from flows.cli.settings_table import list_settings, of_variant

        known = list(list_settings(Settings))
        rows = [row for row in known if row.key.startswith(prefix)] or of_variant(known, prefix)
        if not rows:
            raise SettingsError(f"{prefix}: no setting starts with this; `aemodels settings` lists all of them")
        results.settings(rows, json)


for _of_registry in (models, promote, rollback, history):
    app.command()(_of_registry)


# ---------------------------------------------------------------- using a model


@app.command()
def generate(
    model: Model,
    n: Count = 64,
    label: Annotated[
        str | None, typer.Option(help="Draw this class only. The model must be a conditional one.")
    ] = None,
    like: Annotated[list[Path] | None, typer.Option(help="Draw images like those in this file or folder.")] = None,
    prior: Prior = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the picture to this file.")] = Path("generated.png"),
    json: Json = False,
) -> None:
    """Draw new images into one picture."""
    with answering(verbose=False, computes=True):
        from aemodels.config import UserError

        if sum((label is not None, prior is not None, bool(like))) > 1:
            raise UserError("--label, --prior, --like: give only one of them, since each alone decides what is drawn")
        from flows.cli import results, use

        results.used(use.generate(model, use.Wanted(n, seed, label, prior, like or ()), out), json)


@app.command()
def reconstruct(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the picture to this file.")] = Path(
        "reconstructed.png"
    ),
    json: Json = False,
) -> None:
    """Reconstruct images, and draw the results above them."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.reconstruct(model, images, out), json)


@app.command()
def denoise(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the images to this folder.")] = Path("denoised"),
    json: Json = False,
) -> None:
    """Remove noise from images.

    It is made for models that were trained with training.corruption.
    """
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.denoise(model, images, out), json)


@app.command()
def embed(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the codes to this file.")] = Path("codes.npz"),
    json: Json = False,
) -> None:
    """Write the codes of images to a file."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.embed(model, images, out), json)


@app.command()
def score(model: Model, images: ImageFiles, json: Json = False) -> None:
    """List images by their reconstruction error, largest first."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.scores(use.score(model, images), json)


@app.command()
def monitor(name: Name, images: ImageFiles, json: Json = False, v: Verbose = False) -> None:
    """Check whether new images still suit the champion.

    It measures how well the champion reconstructs them, and where their codes lie. Exit code 3 says that they are no
    longer like the images that the champion was made for.
    """
    with answering(v, computes=True):
        from aemodels.data.image_files import image_files
        from flows.cli import results, work

        paths = [path.absolute() for path in images]
        image_files(paths)
        result = work.monitor(name, paths)
        results.monitored(result, json)
    raise typer.Exit(DRIFTED if result.drift else DONE)


for _command in (compare, report, serve, ui):
    app.command()(_command)


def main() -> None:
    """Runs the command, as the console script does."""
    with guarded():
        app()


if __name__ == "__main__":
    main()
