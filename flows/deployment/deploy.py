"""Makes a Prefect server hold what prefect.yaml says, for `make deploy`; run again, it changes what has changed.

A deployment that is no longer in the file stays on the server: delete it there. What prefect.yaml cannot hold is here:
the work pool, the limits of this machine's GPUs, and the automations. They mark a run crashed whose worker has died,
and start it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from aemodels.config import UserError
from flows.cli.session import answering, note, under_prefect
from flows.cli.streams import guarded
from flows.deployment.prefect_yaml import read_plan
from flows.deployment.worker import AUTOMATION, RESTARTS, STARTED_AGAIN, TAG, Worker
from flows.tasks import gpu_limit
from flows.terminal import sentence

POOL = "aemodels"
SILENCE = timedelta(seconds=90)  # three heartbeats: Prefect sends them every 30 seconds at the most often
SLOWEST_START = timedelta(minutes=10)  # for a process, on a machine that does much else
BEATS = {"prefect.flow-run.Running", "prefect.flow-run.heartbeat"}
REST = timedelta(hours=1)  # between two restarts of a run that has never begun to run, as nothing counts these restarts
# The events after which a run sends no more heartbeats, although it is alive or has ended.
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Suspended", "AwaitingConcurrencySlot")
FILE = Path(__file__).resolve().parents[2] / "prefect.yaml"


def main(file: Annotated[Path, typer.Option(help="Read the deployments from this file.")] = FILE) -> None:
    """Deploy what prefect.yaml says to the Prefect server at PREFECT_API_URL.

    It makes or changes the work pool, the limits of this machine's GPUs, the automations and the deployments.
    """
    with answering(verbose=False):
        if not under_prefect():
            raise UserError("PREFECT_API_URL: not set; give the server's address, such as http://127.0.0.1:4200/api")
        plan = read_plan(file)
        with get_client(sync_client=True) as client:
            warn_of_other_pages(client)
            make_pool(client)
            limit_gpus(client)
            for automation in AUTOMATIONS:
                replace(automation(), client)
            deploy(file)
            drop_schedules(plan, client)
        address = os.environ["PREFECT_API_URL"]
        sentence(f"deployed: {address.removesuffix('/').removesuffix('/api')}/deployments")


def warn_of_other_pages(client: SyncPrefectClient) -> None:
    """Warns if a page of another site, open in somebody's browser, could change the server.

    A protected server takes no change without a token, and lets no other page read one; it is asked whether it does.
    """
    elsewhere = "https://elsewhere.example"
    try:
        answer = client.request("GET", "/csrf-token", params={"client": "deploy"}, headers={"Origin": elsewhere})
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:  # so Prefect says that protection is disabled
            return
    else:
        if answer.headers.get("Access-Control-Allow-Origin") not in ("*", elsewhere):
            return
    note(
        "the server at PREFECT_API_URL takes changes from pages of other sites. Such a page, open in a browser that "
        "reaches the server, can start runs, and with them any command on a worker. Start the server by `ops/serve.sh "
        "prefect`, or set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true and PREFECT_SERVER_CORS_ALLOWED_ORIGINS, to the "
        "address of its own page, where it is started; docs/operations.md tells more"
    )


def make_pool(client: SyncPrefectClient) -> None:
    """Makes the work pool; one that is there stays as it is.

    Raises:
        UserError: it is of Prefect's own type, whose workers report the end of a killed process twice.
    """
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        template = Worker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type=Worker.type, base_job_template=template))
        return
    if pool.type == "process":
        raise UserError(
            f"the work pool {POOL} is of Prefect's own type `process`, which starts a run that was killed again twice; "
            f"stop the workers, then: prefect work-pool delete {POOL}, make deploy, make worker. Nothing was deployed"
        )


def limit_gpus(client: SyncPrefectClient) -> None:
    """Sets limits so that one run at a time works on each of this machine's GPUs."""
    for index in range(torch.cuda.device_count()):
        client.upsert_global_concurrency_limit_by_name(gpu_limit(index), 1)


def silent_runs_have_crashed() -> AutomationCore:
    """Marks a run as crashed whose heartbeats stop before the run has ended: its process or machine is dead."""
    return _have_crashed("silent runs have crashed", BEATS, SILENCE)


def unbegun_runs_have_crashed() -> AutomationCore:
    """Marks a run as crashed that a worker has fetched and that does not begin: its worker died at that moment.

    A busy machine needs minutes to start a process. A run that is marked too early would work twice.
    """
    return _have_crashed("runs that do not begin have crashed", {"prefect.flow-run.Pending"}, SLOWEST_START)


def _have_crashed(name: str, after: set[str], within: timedelta) -> AutomationCore:
    """Returns an automation that marks runs as crashed of which nothing is heard for some time after a sign of life."""
    trigger = EventTrigger(
        posture=Posture.Proactive,
        after=after,
        expect={*after, *BEATS, *(f"prefect.flow-run.{end}" for end in ENDS)},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=_ours(),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=within,
    )
    message = f"No sign of life for {within.seconds} seconds: the worker has died"
    crash = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    return AutomationCore(name=f"aemodels: {name}", trigger=trigger, actions=[crash])


def crashed_runs_start_again() -> AutomationCore:
    """Starts crashed runs again; a training then resumes from its checkpoint, and a search with its next trial."""
    runs = [str(count) for count in range(1, RESTARTS + 1)]
    return _starting_again(AUTOMATION, f"A run starts again {RESTARTS} times at most.", runs, timedelta(0))


def lost_runs_start_again() -> AutomationCore:
    """Starts runs again whose worker died before they ran."""
    about = f"A run starts once in {REST.seconds // 60} minutes; our workers start crashed runs sooner."
    return _starting_again("aemodels: runs that crashed before they ran start again", about, ["0"], REST)


def _starting_again(name: str, about: str, runs: list[str], rest: timedelta) -> AutomationCore:
    """Returns an automation that starts crashed runs again.

    Args:
        name: the automation's name.
        about: its description on Prefect's pages.
        runs: how often a run has been running by now.
        rest: how long the same run is left alone afterwards.
    """
    trigger = EventTrigger(
        posture=Posture.Reactive,
        expect={"prefect.flow-run.Crashed"},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": runs}),
        match_related=_ours(),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=rest,
    )
    again = ChangeFlowRunState(state=StateType.SCHEDULED, message=STARTED_AGAIN)
    return AutomationCore(name=name, description=about, trigger=trigger, actions=[again])


def _ours() -> ResourceSpecification:
    """Matches the runs of this project's deployments, by their tag."""
    return ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"})


AUTOMATIONS = (
    silent_runs_have_crashed,
    unbegun_runs_have_crashed,
    crashed_runs_start_again,
    lost_runs_start_again,
)


def replace(automation: AutomationCore, client: SyncPrefectClient) -> None:
    """Puts an automation in the place of that of the same name; one that a person has switched off stays off.

    An automation that is the same stays, as a new one would know nothing of the runs that are being watched.
    """
    known = client.read_automations_by_name(automation.name)
    same = [old for old in known if _does(old) == _does(automation)][:1]
    if not same:
        enabled = all(old.enabled for old in known)
        client.create_automation(automation.model_copy(update={"enabled": enabled}))
    for old in known:
        if old not in same:
            client.delete_automation(old.id)


def _does(automation: AutomationCore) -> dict[str, Any]:
    """Returns what an automation does, without what the server adds to it."""
    own = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    own["trigger"].pop("id", None)
    for names in ("after", "expect"):
        own["trigger"][names] = sorted(own["trigger"][names])
    return own


def deploy(file: Path) -> None:
    """Deploys what prefect.yaml says, by Prefect's own command.

    Raises:
        UserError: the command has refused it.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{file}: it was not deployed; Prefect says:", *(done.stdout[-2000:] + done.stderr[-2000:]).splitlines()
        )


def drop_schedules(plan: dict[str, Any], client: SyncPrefectClient) -> None:
    """Deletes the schedules of an earlier prefect.yaml, which Prefect keeps.

    Schedules that a person made on Prefect's pages have no slug, and stay.
    """
    for wanted in plan["deployments"]:
        slugs = {schedule.get("slug") for schedule in wanted.get("schedules") or ()}
        named = DeploymentFilter(name=DeploymentFilterName(any_=[wanted["name"]]))
        for deployment in client.read_deployments(deployment_filter=named):
            for schedule in deployment.schedules:
                if schedule.slug and schedule.slug not in slugs and TAG in deployment.tags:
                    client.delete_deployment_schedule(deployment.id, schedule.id)


if __name__ == "__main__":
    with guarded():
        typer.run(main)
