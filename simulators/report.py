"""The results of a simulation: a table, a JSON file and a plot of cumulative regret.

The simulator's main thread writes them after the runs, complete or not. The JSON file of a repeated
lockstep simulation differs in its timing fields alone (wall_s, steps_per_s, requests_per_s). A
rename gives the file its name once it is complete.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from simulators.runner import Run

_FEW_SEEDS = 5
_CURVE_POINT = re.compile(r"\[\s+(\d+),\s+(\S+)\s+\]")  # written on one line
_MA_NAMES = {"linear_ts": "ma_p_linear", "neural_linear_ts": "ma_p_neural"}


@dataclass(frozen=True, slots=True)
class SnapshotCheck:
    """The greatest difference of score means between a model and its export, imported again."""

    policy: str
    seed: int
    max_difference: float


@dataclass(slots=True)
class Outcome:
    """The results of a simulation, filled while it runs; `error` says why it ended early."""

    workload: str
    config: Mapping[str, object]
    runs: list[Run] = field(default_factory=list)
    checks: list[SnapshotCheck] = field(default_factory=list)
    error: str | None = None

    def of_policy(self, policy: str) -> list[Run]:
        """Return the complete runs of a policy, in the order of their seeds."""
        return [run for run in self.runs if run.policy == policy and run.complete]

    def policies(self) -> list[str]:
        """Return the policies with a complete run, in the requested order."""
        return list(dict.fromkeys(run.policy for run in self.runs if run.complete))


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySummary:
    """A policy over its complete runs, compared with the first policy of the simulation.

    Standard errors are None with a single seed. `wins` counts the seeds with less regret than the
    policy `against`, out of the `compared` seeds that both completed. These three are None for the
    first policy.
    """

    policy: str
    seeds: int
    mean_regret: float
    standard_error: float | None
    mean_ma_reward: float
    ma_reward_standard_error: float | None
    percent_of_uniform: float | None
    against: str | None
    wins: int | None
    compared: int | None


def summaries(outcome: Outcome) -> list[PolicySummary]:
    """Return a summary per policy with a complete run, in the requested order."""
    policies = outcome.policies()
    return [_summary(outcome, policy, policies[0]) for policy in policies]


def write_json(outcome: Outcome, path: Path) -> None:
    """Write the results of a simulation to a file, completely or not at all."""
    document: dict[str, object] = {
        "workload": outcome.workload,
        "complete": outcome.error is None,
        "config": dict(outcome.config),
        "summary": [asdict(summary) for summary in summaries(outcome)],
        "runs": [_run_fields(outcome.workload, run) for run in outcome.runs],
    }
    if outcome.error is not None:
        document["error"] = outcome.error
    if outcome.checks:
        document["checks"] = [
            {"policy": c.policy, "seed": c.seed, "max_difference": c.max_difference}
            for c in outcome.checks
        ]
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
    text = _CURVE_POINT.sub(r"[\1, \2]", text)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def print_table(outcome: Outcome, console: Console) -> None:
    """Print one row per policy over its complete runs."""
    rows = summaries(outcome)
    if not rows:
        return
    table = Table(
        title=_title(outcome),
        caption=f"wins: seeds with less regret than {rows[0].policy}" if len(rows) > 1 else None,
        box=box.SIMPLE,
        collapse_padding=True,  # the widest row fits into 80 columns
        pad_edge=False,
    )
    table.add_column("policy", no_wrap=True)
    for column in ("cumulative\nregret", "% of\nuniform", "ma_reward", "wins", "steps/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        runs = outcome.of_policy(row.policy)
        percent = row.percent_of_uniform
        table.add_row(
            row.policy,
            _with_error(row.mean_regret, row.standard_error, digits=1),
            "-" if percent is None else f"{percent:.2f}",
            _with_error(row.mean_ma_reward, row.ma_reward_standard_error, digits=3),
            "-" if row.against is None else f"{row.wins}/{row.compared}",
            f"{np.mean([run.steps_per_s for run in runs]):.0f}",
        )
    console.print(table)
    if outcome.workload == "two-tower":
        console.print(_expected_rewards(outcome), highlight=False)
    for check in outcome.checks:
        console.print(
            f"save and load, {check.policy} seed {check.seed}: "
            f"greatest difference of score means {check.max_difference:g}",
            highlight=False,
        )


def plot_regret(outcome: Outcome, path: Path) -> None:
    """Draw mean cumulative regret over steps per policy, in a band of one standard error.

    Only complete runs are drawn. The file type follows the suffix of `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, summary in enumerate(summaries(outcome)):
        policy = summary.policy
        curves = [run.regret_curve() for run in outcome.of_policy(policy)]
        steps = np.array([0, *(step for step, _ in curves[0])])
        regret = np.array([[0.0, *(value for _, value in curve)] for curve in curves])
        mean = regret.mean(axis=0)
        color = f"C{number}"
        figures = _with_error(summary.mean_regret, summary.standard_error, digits=1)
        label = f"{policy} ({figures})"
        axes.plot(steps, mean, color=color, linewidth=2.0, label=label)
        if len(curves) > 1:
            error = regret.std(axis=0, ddof=1) / np.sqrt(len(curves))
            axes.fill_between(steps, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        if 1 < len(curves) <= _FEW_SEEDS:
            axes.plot(steps, regret.T, color=color, linewidth=0.6, alpha=0.5)
    axes.set_title(_title(outcome))
    axes.set_xlabel("step")
    axes.set_ylabel("cumulative regret")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="policy (at the end)", frameon=False)
    figure.savefig(path, dpi=150)


def _run_fields(workload: str, run: Run) -> dict[str, object]:
    fields: dict[str, object] = {
        "policy": run.policy,
        "seed": run.seed,
        "steps": run.steps,
        "complete": run.complete,
        "cumulative_regret": run.regret,
        "percent_of_uniform": run.percent_of_uniform,
        "ma_reward": run.ma_reward,
        "regret_curve": run.regret_curve(),
        "num_requests": run.num_requests,
        "num_train_rounds": run.num_train_rounds,
        "wall_s": run.wall_s,
        "steps_per_s": run.steps_per_s,
        "requests_per_s": run.requests_per_s,
    }
    if workload == "two-tower":
        fields |= {"ma_best_p": run.ma_best, "ma_p": run.ma_chosen}
    return fields


def _title(outcome: Outcome) -> str:
    steps = max((run.horizon for run in outcome.runs), default=0)
    seeds = len({run.seed for run in outcome.runs if run.complete})
    return f"{outcome.workload}: {steps} steps, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def _summary(outcome: Outcome, policy: str, first: str) -> PolicySummary:
    runs = outcome.of_policy(policy)
    percents = [run.percent_of_uniform for run in runs]
    known = [percent for percent in percents if percent is not None]
    rivals = {run.seed: run.regret for run in outcome.of_policy(first)}
    pairs = [(run.regret, rivals[run.seed]) for run in runs if run.seed in rivals]
    compared = policy != first
    return PolicySummary(
        policy=policy,
        seeds=len(runs),
        mean_regret=float(np.mean([run.regret for run in runs])),
        standard_error=_standard_error([run.regret for run in runs]),
        mean_ma_reward=float(np.mean([run.ma_reward for run in runs])),
        ma_reward_standard_error=_standard_error([run.ma_reward for run in runs]),
        percent_of_uniform=float(np.mean(known)) if known else None,
        against=first if compared else None,
        wins=sum(own < rival for own, rival in pairs) if compared else None,
        compared=len(pairs) if compared else None,
    )


def _standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, None for a single value."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _with_error(mean: float, error: float | None, *, digits: int) -> str:
    text = f"{mean:.{digits}f}"
    return text if error is None else f"{text} +- {error:.{digits}f}"


def _expected_rewards(outcome: Outcome) -> str:
    """Return a line with the expected rewards of best and chosen actions in the last steps."""
    complete = [run for run in outcome.runs if run.complete]
    parts = [f"ma_best_p {np.mean([run.ma_best for run in complete]):.4f}"]
    for policy in outcome.policies():
        mean = np.mean([run.ma_chosen for run in outcome.of_policy(policy)])
        parts.append(f"{_MA_NAMES.get(policy, f'ma_p_{policy}')} {mean:.4f}")
    return "  ".join(parts)
