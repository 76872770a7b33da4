"""What started a retraining, and what became of the starts before it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.runtime import flow_run
from prefect.states import Crashed

from aigc_tasks import retraining


def overtaken() -> str | None:
    """When the next start of the same schedule was due, if that is past, too: of missed starts only the last counts."""
    if not is_scheduled():
        return None
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run.id)
        due = {"after_": run.expected_start_time, "before_": datetime.now(UTC)}
        chosen = {
            "deployment_id": {"any_": [run.deployment_id]},
            "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}},
            "expected_start_time": due,
        }
        later = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(chosen))
    others = [
        one.expected_start_time for one in later if one.id != run.id and one.auto_scheduled and one.expected_start_time
    ]
    return max(others).isoformat(timespec="seconds") if others else None


def is_scheduled() -> bool:
    """Whether a schedule started this run, rather than a person, a command or an event."""
    if not flow_run.id:
        return False
    with get_client(sync_client=True) as client:
        return bool(client.read_flow_run(flow_run.id).auto_scheduled)


def is_paused() -> bool:
    """Whether this run's deployment is paused, which keeps Prefect's schedules back, but no automation."""
    if not flow_run.id:
        return False
    with get_client(sync_client=True) as client:
        deployment = client.read_flow_run(flow_run.id).deployment_id
        return deployment is not None and client.read_deployment(deployment).paused


def close(killed: retraining.Note) -> None:
    """Say on the server that a run was killed which it believes to be at work; this one goes on from its checkpoint."""
    get_run_logger().info("goes on with what run %s, which was killed, has left", killed.flow_run)
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [killed.flow_run]}}))
        if found and found[0].state is not None and not found[0].state.is_final():
            close_tasks(client, found[0].id)
            client.set_flow_run_state(
                found[0].id, Crashed(message=f"killed; run {flow_run.id} goes on from its last checkpoint"), force=True
            )


def close_tasks(client: SyncPrefectClient, run: UUID) -> None:
    """Of a run that was killed: its tasks that the server believes to be at work ended with it."""
    chosen = FlowRunFilter.model_validate({"id": {"any_": [run]}})
    at_work = TaskRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
    for one in client.read_task_runs(flow_run_filter=chosen, task_run_filter=at_work):
        client.set_task_run_state(one.id, Crashed(message="killed"), force=True)
