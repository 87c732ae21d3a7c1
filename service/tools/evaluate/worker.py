"""The process of one evaluation: a job on its input, the result on its output, a line of JSON each.

It reads the server's database as `bandexa evaluate --data-dir` does, in short reads, at a low
priority. It ends when its input closes: a server that is killed leaves none behind.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from service.tools.evaluate.request import Request


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        data_dir: The server's.
        bandit: The name of the bandit.
        request: What is asked.
        encoders, weights: Own encoders and weight files by name, as in the server's settings.
        niceness: How much lower its priority is than the server's.
    """

    data_dir: str
    bandit: str
    request: Request
    encoders: dict[str, str]
    weights: dict[str, str]
    niceness: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the evaluation as JSON, or why there is none."""

    result: dict[str, Any] | None = None
    error: str | None = None


class _Job(Protocol):
    @property
    def niceness(self) -> int: ...


J = TypeVar("J", bound=_Job)


def work(kind: type[J], do: Callable[[J], msgspec.Struct]) -> None:
    """Do one job of a kind, in a process of its own; its outcome is written as a line, too."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a print of a user's encoder must not be taken for the result
    job = msgspec.json.decode(sys.stdin.readline(), type=kind)
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(job.niceness)  # requests go first
    _end_first_without_memory()
    output.write(msgspec.json.encode(do(job)) + b"\n")
    output.flush()


def done(job: Job) -> Outcome:
    """Do a job, and return what came of it."""
    from bandexa_core.encoders import EncoderRegistry
    from service.store.errors import StoreError
    from service.tools.evaluate.asked import evaluated
    from service.tools.export.command import log_of

    weights = {name: Path(path) for name, path in job.weights.items()}
    try:
        registry = EncoderRegistry(job.encoders, weights, torch_threads=1, downloads=False)
        with log_of(Path(job.data_dir), job.bandit) as rows:
            found = evaluated(rows, job.request, registry)
    except (ValueError, StoreError, OSError) as error:
        return Outcome(error=str(error))
    return Outcome(result=found.to_json())


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _end_first_without_memory() -> None:
    """Make the kernel end this process, not the server, where memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # a larger one needs no privilege
            file.write("1000")
    except OSError:
        pass  # where there is no such file, nothing can be asked of the kernel


if __name__ == "__main__":
    work(Job, done)
