"""A process that does one job of the server: the job on its input, the outcome on its output.

Each is a line of JSON. The server's side (`job_process`) runs on the event loop; the other side
(`work`) is all that the process does, at a low priority. The process ends when its input closes, so
that a server that is killed leaves none behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from service import BLAS_THREADS

if TYPE_CHECKING:
    from service.settings import Settings

T = TypeVar("T")
J = TypeVar("J", bound="Job")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What every job says.

    Attributes:
        data_dir, store: The server's settings.
        bandit: The name of the bandit.
        encoders, weights: Own encoders and weight files by name, as in the server's settings.
        niceness: How much lower its priority is than the server's.
    """

    data_dir: str
    store: str | None
    bandit: str
    encoders: dict[str, str]
    weights: dict[str, str]
    niceness: int

    @classmethod
    def of(cls, settings: Settings, bandit: str, **asked: object) -> Self:
        """Return a job about a bandit of the server with these settings."""
        weights = {name: str(path) for name, path in settings.weights.items()}
        return cls(
            data_dir=str(settings.data_dir), store=settings.store, bandit=bandit,
            encoders=settings.encoders,
            weights=weights, niceness=settings.trainer_niceness, **asked,
        )  # fmt: skip


class NoOutcome(Exception):
    """A process gave none; the message says why, as far as the server knows."""


# -- the server's side -------------------------------------------------------------------------


class JobProcess:
    """A process that was started for a job; see `job_process`."""

    def __init__(self, process: asyncio.subprocess.Process, limit_s: float) -> None:
        self._process = process
        self._limit_s = limit_s

    async def outcome(self, job: Job, kind: type[T]) -> T:
        """Give it its job, and return the outcome.

        Raises:
            NoOutcome: It ended without one, or it took too long.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            async with asyncio.timeout(self._limit_s):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end says why
                    stdin.write(msgspec.json.encode(job) + b"\n")
                    await stdin.drain()
                line = await stdout.readline()
                if line.endswith(b"\n"):
                    return msgspec.json.decode(line, type=kind)
                code = await self._process.wait()
        except TimeoutError:
            raise NoOutcome(f"it took longer than {self._limit_s:.0f} s") from None
        raise NoOutcome(f"its process ended with {code}; the server's log may say why")

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                self._process.kill()


@asynccontextmanager
async def job_process(module: str, *, limit_s: float, max_bytes: int) -> AsyncIterator[JobProcess]:
    """Start a process for a job, and end it at the exit.

    Args:
        module: Which calls `work`.
        limit_s: How long the job may take.
        max_bytes: How long its outcome may be.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=max_bytes,
        env=os.environ | {BLAS_THREADS: "1", "PYTHONPATH": path},
    )  # fmt: skip
    started = JobProcess(process, limit_s)
    try:
        yield started
    finally:
        started.kill()
        await process.wait()


# -- the side of the process -------------------------------------------------------------------


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
