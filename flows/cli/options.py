"""Defines arguments and options that several commands take, or that are checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SETTINGS_HELP = "Settings that differ from the defaults, such as data.name=mnist model.latent_dim=20."
Changes = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=SETTINGS_HELP)]
Preset = Annotated[
    list[str] | None, typer.Option(help="Start from what comes along, such as article-vae; once more adds to it: fast.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="Start from a JSON file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Prefect, MLflow and Optuna.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="NAME@ALIAS, NAME/VERSION or a run's folder.")]
ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept with the version.")]
Count = Annotated[int, typer.Option("-n", min=1, max=10_000, help="Images to draw.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")]
PriorName = Literal["gaussian", "mixture", "flow"]  # as in PRIORS, which needs torch; a test holds them equal
Prior = Annotated[
    PriorName | None, typer.Option(help="Draw from this one, fitted to training codes; not of a conditional model.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of a registered model.")]
