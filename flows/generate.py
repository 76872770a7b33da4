"""The flow ``generate(product, …)``: a batch of images from a product, for a schedule or an event."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow, get_run_logger

from aigc_tasks import layout


@flow(name="generate", flow_run_name="{product}-{count}", validate_parameters=False)
def generate(
    product: str,
    count: int,
    out: str,
    label: str | None = None,
    seed: int = 0,
    form: Literal["png", "webp", "npy"] = "png",
) -> str:
    """``count`` images of a product's version into the folder ``out``; goes on where it was stopped."""
    from aigc_tasks.generate import write  # imports torch, which schedules need not wait for

    stand = Path.cwd()
    layout.enter_project()
    said = write(product, count, label, seed, stand / out, form)
    get_run_logger().info("%s", said)
    return said
