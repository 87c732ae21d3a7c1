"""Metrics of what is alive: read from the engine when they are asked for, kept nowhere.

Runs on the event loop, in one synchronous step, so that the numbers belong together. A deleted
bandit's metrics go with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bandexa_core import __version__
from service.observe.counters import Count, Tally
from service.observe.health import ALARM, learning_of, server_findings
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.training.supervisor import PHASES

Labelled = Iterable[tuple[Sequence[str], float]]
__all__ = ["CONTENT_TYPE_LATEST", "exposition"]


def exposition(engine: Engine) -> bytes:
    """Return all metrics in Prometheus' text format, of type `CONTENT_TYPE_LATEST`."""
    return generate_latest(_EngineCollector(engine))


class _EngineCollector(Collector):
    """Collects the metrics of an engine, its bandits and this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; those of bandits without samples where there is no bandit."""
        yield from ProcessCollector(registry=None).collect()
        build = [((__version__,), 1.0)]
        text = "The running version; always 1."
        yield _labelled("bandexa_build_info", text, ["version"], build)
        yield from self._requests()
        yield from self._encoding()
        yield from self._store()
        yield from self._trainer()
        yield from self._bandits()
        yield from self._learning()

    def _requests(self) -> Iterator[Metric]:
        engine, metrics = self._engine, self._engine.metrics
        yield _gauge("bandexa_ready", "Whether the server is ready.", engine.failure() is None)
        yield _gauge("bandexa_requests_in_flight", "Requests under way.", metrics.in_flight)
        yield _histogram(
            "bandexa_select_seconds",
            "Time of a select, from its decoding to its commit.",
            [((), metrics.stages.total)],
        )
        yield _histogram(
            "bandexa_select_stage_seconds",
            "Time of a select by stage: decode, encode, draw, commit.",
            [((name,), tally) for name, tally in metrics.stages.by_name().items()],
            ["stage"],
        )
        yield _histogram(
            "bandexa_reward_seconds",
            "Time of a reward inside the engine, commit and learning included.",
            [((), metrics.reward_seconds)],
        )

        problems = CounterMetricFamily(
            "bandexa_problems",
            "Requests, and items of batches, answered by a problem.",
            labels=["type"],
        )
        for name, count in metrics.problems.items():
            problems.add_metric([name], count)
        yield problems

    def _encoding(self) -> Iterator[Metric]:
        waiting = self._engine.selecting.encode_queue
        yield _gauge("bandexa_encode_queue", "Contexts waiting for a slow encoder.", waiting)

    def _store(self) -> Iterator[Metric]:
        store = self._engine.store
        times = store.times
        yield _histogram(
            "bandexa_commit_operations", "Writes per commit.", [((), times.operations)]
        )
        yield _histogram(
            "bandexa_commit_seconds", "Time of a commit with its writes.", [((), times.commit)]
        )
        yield _histogram(
            "bandexa_commit_sync_seconds",
            "Time of the commit itself; with durability commit that is the sync of the disk.",
            [((), times.sync)],
        )
        yield _histogram(
            "bandexa_checkpoint_seconds",
            "Time to write the write-ahead log back into the database.",
            [((), times.checkpoint)],
        )
        yield _gauge("bandexa_store_queue", "Writes that wait for a commit.", store.queue_depth)
        yield _gauge(
            "bandexa_store_writable", "Whether the store takes writes.", store.failure is None
        )
        yield _gauge("bandexa_wal_bytes", "Bytes of the write-ahead log.", store.wal_bytes())
        metrics = self._engine.metrics
        yield _gauge(
            "bandexa_store_bytes",
            "Bytes of the database that hold something.",
            metrics.store_bytes,
        )
        yield _counter(
            "bandexa_decisions_removed",
            "Decisions that retention removed.",
            metrics.decisions_removed,
        )

    def _trainer(self) -> Iterator[Metric]:
        supervisor, metrics = self._engine.rounds.supervisor, self._engine.metrics
        for name, text, count in (
            ("bandexa_swaps", "Models swapped in.", metrics.swaps),
            ("bandexa_rounds", "Training rounds that were swapped in.", metrics.rounds),
            ("bandexa_rounds_failed", "Training rounds that failed.", metrics.rounds_failed),
            (
                "bandexa_trainer_restarts",
                "Restarts of the trainer process.",
                metrics.trainer_restarts,
            ),
        ):
            yield _counter(name, text, count)
        for name, text, tally in (
            (
                "bandexa_swap_seconds",
                "From a published snapshot to its model being served.",
                metrics.swap_seconds,
            ),
            (
                "bandexa_swap_stall_seconds",
                "Time of a swap on the event loop.",
                metrics.swap_stall_seconds,
            ),
            (
                "bandexa_round_seconds",
                "Time of a training round, up to its snapshot.",
                metrics.round_seconds,
            ),
        ):
            yield _histogram(name, text, [((), tally)])
        yield _labelled(
            "bandexa_trainer_phase",
            "What the trainer does; 1 for the phase it is in.",
            ["phase"],
            [((phase,), float(phase == supervisor.phase)) for phase in PHASES],
        )
        yield _gauge("bandexa_trainer_queue", "Bandits that wait for a round.", supervisor.waiting)
        yield _gauge(
            "bandexa_trainer_heartbeat_age_seconds",
            "Since the trainer last told how far its round is; 0 between rounds.",
            supervisor.silent_s,
        )
        yield _gauge(
            "bandexa_trainer_resident_bytes",
            "Memory of the trainer process, as of its last heartbeat.",
            supervisor.resident_bytes,
        )
        named = [(self._engine.live.find(uid), held) for uid, held in supervisor.replays.items()]
        held = [(bandit.record.name, held) for bandit, held in named if bandit is not None]
        yield _labelled(
            "bandexa_replay_rows",
            "Rows that the bandit's last round trained on or rebuilt from.",
            ["bandit"],
            [((name,), rows) for name, (rows, _) in held],
        )
        yield _labelled(
            "bandexa_replay_bytes",
            "Bytes of those rows.",
            ["bandit"],
            [((name,), num_bytes) for name, (_, num_bytes) in held],
        )

    def _bandits(self) -> Iterator[Metric]:
        bandits = self._engine.bandits()
        now = time.time()
        selects = CounterMetricFamily(
            "bandexa_selects", "Answered selects, repeated ones included.", labels=["bandit"]
        )
        rewards = CounterMetricFamily(
            "bandexa_rewards", "Rewards by status.", labels=["bandit", "status"]
        )
        for bandit in bandits:
            name = bandit.record.name
            selects.add_metric([name], bandit.vitals.selects)
            for status, count in bandit.vitals.rewards.items():
                rewards.add_metric([name, status], count)
        yield selects
        yield rewards
        yield _histogram(
            "bandexa_propensity",
            "Probability of what was chosen, of decisions that were answered with it.",
            [((bandit.record.name,), bandit.vitals.propensities) for bandit in bandits],
            ["bandit"],
        )
        yield _labelled(
            "bandexa_reward_mean",
            "Mean of about the last 1,000 learned values.",
            ["bandit", "policy"],
            [
                ((bandit.record.name, bandit.record.spec.policy), bandit.vitals.reward_mean)
                for bandit in bandits
                if bandit.vitals.reward_mean is not None
            ],
        )
        yield _labelled(
            "bandexa_join_rate",
            "Rewarded per chosen actions, of about the last 1,000.",
            ["bandit"],
            [
                ((bandit.record.name,), rate)
                for bandit in bandits
                if (rate := bandit.vitals.join_rate()) is not None
            ],
        )
        for name, text, value in (
            ("bandexa_snapshot", "Version of the served snapshot.", _version),
            ("bandexa_position", "Log position of the served model.", _position),
            ("bandexa_position_lag", "Log rows applied since the served snapshot.", _lag),
            ("bandexa_rows_waiting", "Committed rows that wait to be applied.", _rows_waiting),
            ("bandexa_learned_values", "Values learned in the bandit's life.", _learned),
            ("bandexa_untrained_values", "Values learned since the last round.", _untrained),
            ("bandexa_actions", "Actions that are offered.", _actions),
        ):
            yield _labelled(name, text, ["bandit"], [((b.record.name,), value(b)) for b in bandits])
        yield _labelled(
            "bandexa_snapshot_age_seconds",
            "Age of the served snapshot.",
            ["bandit"],
            [((b.record.name,), max(0.0, now - b.model.created_at)) for b in bandits],
        )

    def _learning(self) -> Iterator[Metric]:
        engine = self._engine
        found = [("", finding) for finding in server_findings(engine)]
        for bandit in engine.bandits():
            found += [(bandit.record.name, f) for f in learning_of(engine, bandit)]
        alarmed = any(finding.severity == ALARM for _, finding in found)
        yield _gauge("bandexa_learning", "Whether /learnz answers 200.", not alarmed)
        yield _labelled(
            "bandexa_finding",
            "What /learnz found; 1 while it holds. Without a bandit: of the whole server.",
            ["bandit", "finding", "severity"],
            [((name, finding.name, finding.severity), 1.0) for name, finding in found],
        )


def _version(bandit: Bandit) -> float:
    return bandit.model.version


def _position(bandit: Bandit) -> float:
    return bandit.model.position


def _lag(bandit: Bandit) -> float:
    return bandit.model.position - bandit.model.base_position


def _rows_waiting(bandit: Bandit) -> float:
    return bandit.applier.rows_waiting


def _learned(bandit: Bandit) -> float:
    return bandit.model.progress.num_learned


def _untrained(bandit: Bandit) -> float:
    progress = bandit.model.progress
    return progress.num_learned - progress.trained_rows if bandit.model.learns_features else 0


def _actions(bandit: Bandit) -> float:
    return len(bandit.model.catalogue.enabled_slots)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, count: Count) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=count.value)


def _labelled(name: str, text: str, labels: Sequence[str], samples: Labelled) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histogram(
    name: str,
    text: str,
    tallies: Iterable[tuple[Sequence[str], Tally]],
    labels: Sequence[str] = (),
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, tally in tallies:
        buckets = [
            ("+Inf" if bound == math.inf else repr(bound), count)
            for bound, count in tally.cumulative()
        ]
        family.add_metric(values, buckets, tally.total)
    return family
