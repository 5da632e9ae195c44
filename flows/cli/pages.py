"""Defines commands that show something: a model's report, a model over HTTP, MLflow's pages."""

from __future__ import annotations

import shutil
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, Model
from flows.cli.session import answering, check_file, tell


def report(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Copy the report to this file instead of opening it.")
    ] = None,
    json: Json = False,
) -> None:
    """Open the report of a trained model in a browser.

    The report is one file with the metrics, the settings and all figures. You can send it to others.
    """
    with answering(verbose=False):
        from aemodels.runtime.files import write_whole
        from aemodels.tracking.catalog import find_report
        from flows import leftovers
        from flows.cli import results

        if out is not None:
            check_file(out, ".html")
        file = _made(model) or find_report(model)
        if out is not None and out.resolve() != file.resolve():
            write_whole(out, lambda partial: shutil.copyfile(file, partial))
        results.used({"model": model, "report": str(out or file)}, json)
        if out is not None or json:
            return
        with leftovers.outliving():
            opened = webbrowser.open(file.as_uri())
        if not opened:
            tell("no browser was found on this machine; open the report's file in a browser")


def _made(model: str) -> Path | None:
    """Makes the report of a model that was saved in Python, which has none, in the cache; None for other models."""
    from aemodels.checkpoints.model_files import CONFIG, WEIGHTS, digest
    from aemodels.runtime.environment import cache_folder
    from aemodels.runtime.files import write_whole
    from aemodels.tracking.catalog import REPORT
    from aemodels.tracking.references import is_folder

    if not is_folder(model) or not (Path(model) / CONFIG).exists() or (Path(model) / REPORT).exists():
        return None
    from flows import terminal
    from flows.cli.use import open_model

    opened = open_model(model)
    with terminal.bars():
        page = opened.page(terminal.follow(opened.evaluation()))
    file = cache_folder() / "reports" / f"{digest((opened.folder / WEIGHTS).read_bytes())}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda partial: partial.write_text(page, encoding="utf-8"))
    return file


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Listen at this address. 127.0.0.1 is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Listen on this port. 0 takes a free one.")] = 5001,
) -> None:
    """Serve a model over HTTP until you press Ctrl-C.

    It answers the same requests as MLflow's own server. An alias such as @champion is looked up at the start. So start
    the server again when there is a new champion.
    """
    with answering(verbose=False, computes=True):
        from aemodels.serving.server import is_local, listen
        from aemodels.serving.server import serve as run
        from flows import terminal
        from flows.cli.use import open_to_serve

        listener = listen(host, port)
        network = open_to_serve(model)
        if not is_local(listener):
            tell(f"warning: --host {host}: everybody who reaches this machine can use the model, without a password")
        terminal.sentence(f"{model}: http://{host}:{listener.getsockname()[1]}/invocations  (Ctrl-C ends it)")
        run(network, listener, host)


def ui(port: Annotated[int, typer.Option(help="Listen on this port of this machine.")] = 5000) -> None:
    """Serve MLflow's pages here until you press Ctrl-C."""
    with answering(verbose=False):
        from aemodels.tracking.ui import serve_ui
        from flows import terminal

        terminal.sentence(
            f"MLflow: http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning  (Ctrl-C ends it)"
        )
        serve_ui(port)
