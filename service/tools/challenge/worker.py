"""The process of one comparison, see `service.tools.job_process`.

It reads the server's database as an evaluation does, in short reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from service.serving.challengers import Score
from service.tools import job_process


class Job(job_process.Job, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        specs: The configurations of its challengers by name, as JSON.
        least: Of each: how many decisions a conclusion needs.
        num: How many challengers share the error.
    """

    specs: dict[str, dict[str, Any]]
    least: dict[str, int]
    num: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """How challengers compare, by name; or why nobody knows."""

    scores: dict[str, Score] = {}
    error: str | None = None


def done(job: Job) -> Found:
    """Do a job, and return what came of it."""
    from bandexa_core.encoders import EncoderRegistry
    from bandexa_core.spec import BanditSpec
    from service.store.errors import StoreError
    from service.tools.challenge.scoring import compared
    from service.tools.evaluate.cases import Cases
    from service.tools.evaluate.learner import Learner
    from service.tools.evaluate.policies import Asked, PolicyError
    from service.tools.export.command import log_of

    weights = {name: Path(path) for name, path in job.weights.items()}
    learners: dict[str, Asked] = {}
    failed: dict[str, Score] = {}
    try:
        registry = EncoderRegistry(job.encoders, weights, torch_threads=1, downloads=False)
        for name, spec in job.specs.items():
            try:
                learners[name] = Learner(name, BanditSpec.from_json(spec), registry)
            except PolicyError as error:
                failed[name] = Score(error=str(error))
        with log_of(Path(job.data_dir), job.bandit, store=job.store) as rows:
            scores = compared(Cases(rows), learners, job.least, job.num)
    except (ValueError, StoreError, OSError) as error:
        return Found(error=str(error))
    return Found(scores=scores | failed)


if __name__ == "__main__":
    job_process.work(Job, done)
