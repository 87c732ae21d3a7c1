"""The process of one evaluation, see `service.tools.job_process`.

It reads the server's database as `bandexa evaluate --data-dir` does, in short reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from service.tools import job_process
from service.tools.evaluate.request import Request


class Job(job_process.Job, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        request: What is asked.
    """

    request: Request


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the evaluation as JSON, or why there is none."""

    result: dict[str, Any] | None = None
    error: str | None = None


def done(job: Job) -> Outcome:
    """Do a job, and return what came of it."""
    from bandexa_core.encoders import EncoderRegistry
    from service.store.errors import StoreError
    from service.tools.evaluate.asked import evaluated
    from service.tools.export.command import log_of

    weights = {name: Path(path) for name, path in job.weights.items()}
    try:
        registry = EncoderRegistry(job.encoders, weights, torch_threads=1, downloads=False)
        with log_of(Path(job.data_dir), job.bandit, store=job.store) as rows:
            found = evaluated(rows, job.request, registry)
    except (ValueError, StoreError, OSError) as error:
        return Outcome(error=str(error))
    return Outcome(result=found.to_json())


if __name__ == "__main__":
    job_process.work(Job, done)
