"""Defines arguments and options that several commands take, or that are checked before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aemodels.priors import PriorName

SETTINGS_HELP = "Set what shall differ from the defaults, such as data.name=mnist model.latent_dim=20."
Changes = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=SETTINGS_HELP)]
Preset = Annotated[
    list[str] | None,
    typer.Option(
        help="Start from the settings of this preset, such as article-vae. A second --preset adds to the first."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option(help="Start from a JSON file of settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Prefect, MLflow and Optuna.")]
MODEL_HELP = "Name the model as NAME@ALIAS or NAME/VERSION, or give the folder of its run."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ImageFiles = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Give image files, or folders of them.")]
Reason = Annotated[str, typer.Option("--reason", help="Say why. The reason is kept with the version.")]
Count = Annotated[int, typer.Option("-n", min=1, max=10_000, help="Draw this many images.")]
Seed = Annotated[int, typer.Option(min=0, help="Draw with this seed. The same seed draws the same images.")]
Prior = Annotated[
    PriorName | None,
    typer.Option(
        help="Draw from this prior, fitted to the training codes; standard_normal is N(0, I), and fitted to nothing. "
        "A conditional model takes none."
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Give the name of a registered model.")]
