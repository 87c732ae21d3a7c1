"""Findings of learning: log rows that cannot be applied, rounds that fail or are overdue."""

from __future__ import annotations

from collections.abc import Iterator

from service.observe.health.findings import ALARM, Finding
from service.observe.health.observed import BanditState
from service.serving.applier import Failure

FAILED_ROUNDS = 2  # in a row
ROWS_WAIT_S = 60.0


def failed_finding(failure: Failure) -> Finding:
    """Return the finding of a bandit whose log cannot be applied."""
    where = f"log row {failure.position}" if failure.position else "its model"
    return Finding(
        "bandit-failed", ALARM,
        f"{where} cannot be applied, and nothing is learned: {failure.reason}"
        f" ({failure.tries} recoveries failed)",
        "rewards are stored and learned once the cause is gone; it is tried again each minute, and"
        " `bandexa recover` tries at once",
    )  # fmt: skip


def check_training(state: BanditState) -> Iterator[Finding]:
    """Yield what keeps rounds, changes and rows from being learned."""
    if state.due_s > state.stale_s:
        yield Finding(
            "round-overdue", ALARM, f"a training round has been due for {state.due_s:.0f} s",
            "is the trainer alive (/readyz), or busy with other bandits? Then use fewer optimizer"
            " steps, more trainer_threads, or a larger train_every",
        )  # fmt: skip
    failed, reason = state.failures
    if failed >= FAILED_ROUNDS:
        yield Finding(
            "rounds-failing", ALARM, f"{failed} training rounds in a row failed: {reason}",
            "the trainer's lines in the log have the traceback",
        )  # fmt: skip
    if state.change_error is not None:
        yield Finding(
            "change-failing", ALARM,
            f"the new configuration could not be learned, and the one before is served:"
            f" {state.change_error}",
            "it is tried again, and at once by the same PUT; a PUT of the served configuration"
            " takes it back",
        )  # fmt: skip
    if state.rows_wait_s > ROWS_WAIT_S and state.failure is None:
        yield Finding(
            "rows-waiting", ALARM,
            f"learned rows have waited for {state.rows_wait_s:.0f} s to be applied",
            "is the encoder too slow for the traffic?",
        )  # fmt: skip
