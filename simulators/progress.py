"""Progress of a simulation on stderr: bars on a terminal, a line per finished run elsewhere.

A thread of rich refreshes the bars; everything else runs in the simulator's main thread. The bars
show the runs of the current seed; finished runs become lines above them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from simulators.runner import Run

_EVERY = 10


class RunProgress:
    """Shows the progress of runs; nothing if `quiet`."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def begin_seed(self, runs: Sequence[Run]) -> None:
        """Replace the bars by one for each run of the next seed."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks = {
            (run.policy, run.seed): self._bars.add_task(
                f"{run.policy} seed {run.seed}", total=run.horizon, start=False, figures=""
            )
            for run in runs
        }

    def advance(self, run: Run) -> None:
        """Update the bar of a run after a step."""
        task = self._tasks[run.policy, run.seed]
        if run.steps == 1:
            self._bars.start_task(task)
        if run.steps % _EVERY == 0 or run.steps == run.horizon:
            self._bars.update(task, completed=run.steps, figures=_figures(run))

    def finish(self, run: Run) -> None:
        """Print the line of a finished run."""
        if not self._quiet:
            self._console.print(
                f"{run.policy} seed {run.seed}: {run.steps} steps in {run.wall_s:.1f} s, "
                f"{_figures(run)}",
                highlight=False,
                soft_wrap=True,
            )


def _figures(run: Run) -> str:
    return f"regret {run.regret:.1f}, ma_reward {run.ma_reward:.3f}"
