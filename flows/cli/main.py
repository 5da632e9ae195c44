"""The `aemodels` command. What a command needs is imported when it runs, so that help answers at once.

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
from flows.cli.options import Changes, ConfigFile, Count, ImageFiles, Json, Model, Name, Preset, Prior, Seed, Verbose
from flows.cli.pages import report, serve, ui
from flows.cli.registry import history, models, promote, rollback
from flows.cli.session import (
    answering,
    let_prefect_start,
    model_first,
    read_evaluation_settings,
    read_settings,
)
from flows.cli.streams import guarded

ABOUT = "Train, tune, compare, promote and use autoencoders on images. `aemodels settings` lists what can be set."


class Commands(TyperGroup):
    """The commands; what is wrong with a command line is said as it was given."""

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


# ---------------------------------------------------------------- the workflow


@app.command()
def pipeline(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Prepare, tune, train, judge, register and promote."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
        from aemodels.steps.start import fixed
        from aemodels.steps.tune import check
        from flows import terminal
        from flows.cli import results

        settings = fixed(settings)
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
    """Decode the images once, for all later runs."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
        from flows.cli import results, work

        results.prepared(work.prepare(settings), json)


@app.command()
def tune(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Search the settings: latent size, KL weight."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
        from aemodels.steps.start import fixed
        from aemodels.steps.tune import check
        from flows.cli import results, work

        settings = fixed(settings)
        check(settings)
        result = work.tune(settings)
        results.tuned(result, json)
        results.told(result.folder)


@app.command()
def train(
    changes: Changes = None, preset: Preset = None, config: ConfigFile = None, json: Json = False, v: Verbose = False
) -> None:
    """Train a model, judge it and register it."""
    with answering(v, computes=True):
        settings = read_settings(changes, preset, config)
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
        typer.Argument(metavar="[MODEL] [KEY=VALUE]...", help="MODEL (the champion, if none is given) and settings."),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    json: Json = False,
    v: Verbose = False,
) -> None:
    """Judge a trained model again, or on other images."""
    with answering(v, computes=True):
        model, changes = model_first(arguments or [])
        if not model:
            model = f"{read_settings(changes, preset, config).registered_name}@champion"
        settings = read_evaluation_settings(changes, preset, config)
        from flows.cli import results, work

        results.evaluated(work.evaluate(model, settings), json)


@app.command()
def settings(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="[PREFIX]", help="Only settings that start with it, or those of one variant, such as model.vae."
        ),
    ] = "",
    json: Json = False,
) -> None:
    """List all settings, with defaults and units."""
    with answering(verbose=False):
        from aemodels.config import SettingsError
        from aemodels.settings import Settings
        from flows.cli import results
        from flows.cli.settings_table import list_settings, of_variant

        known = list(list_settings(Settings))
        rows = [row for row in known if row.key.startswith(prefix)] or of_variant(known, prefix)
        if not rows:
            raise SettingsError(f"{prefix}: no setting starts with it; `aemodels settings` lists all")
        results.settings(rows, json)


for _of_registry in (models, promote, rollback, history):
    app.command()(_of_registry)


# ---------------------------------------------------------------- using a model


@app.command()
def generate(
    model: Model,
    n: Count = 64,
    label: Annotated[str | None, typer.Option(help="Of this class only; of a conditional model.")] = None,
    like: Annotated[list[Path] | None, typer.Option(help="More like these images, or those of a folder.")] = None,
    prior: Prior = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("generated.png"),
    json: Json = False,
) -> None:
    """Draw new images into one picture."""
    with answering(verbose=False, computes=True):
        from aemodels.config import UserError

        if sum((label is not None, prior is not None, bool(like))) > 1:
            raise UserError("--label, --prior, --like: give one of them; each says in its own way what is drawn")
        from flows.cli import results, use

        results.used(use.generate(model, use.Wanted(n, seed, label, prior, like or ()), out), json)


@app.command()
def reconstruct(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("reconstructed.png"),
    json: Json = False,
) -> None:
    """Draw what the model makes of images, above them."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.reconstruct(model, images, out), json)


@app.command()
def denoise(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")] = Path("denoised"),
    json: Json = False,
) -> None:
    """Write what the model takes for the clean images.

    Made for models that were trained with training.corruption.
    """
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.denoise(model, images, out), json)


@app.command()
def embed(
    model: Model,
    images: ImageFiles,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of codes to write.")] = Path("codes.npz"),
    json: Json = False,
) -> None:
    """Write the images' codes to a file."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.used(use.embed(model, images, out), json)


@app.command()
def score(model: Model, images: ImageFiles, json: Json = False) -> None:
    """List images, the worst reconstructed first."""
    with answering(verbose=False, computes=True):
        from flows.cli import results, use

        results.scores(use.score(model, images), json)


@app.command()
def monitor(name: Name, images: ImageFiles, json: Json = False, v: Verbose = False) -> None:
    """Compare new images with those of the champion.

    It is measured how well it reconstructs them and where their codes lie. Exit code 3: they are of another kind.
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
    """The console script."""
    with guarded():
        app()


if __name__ == "__main__":
    main()
