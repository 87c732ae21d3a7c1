"""All metrics of a server, in Prometheus' text format.

They are read from the engine when they are requested, on the event loop, in one synchronous step:
so they belong together, and a deleted bandit leaves no metrics. Importing prometheus_client takes
33 ms, which is why the route of `/metrics` imports this module, not the server's start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bandexa_core import __version__
from service.observe import log_output
from service.observe.counters import Count, Tally
from service.observe.health import ALARM, bandit_findings, failed_finding, server_findings
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
        """Yield every metric; those of bandits have no samples while there is no bandit."""
        yield from ProcessCollector(registry=None).collect()
        yield _labelled(
            "bandexa_build_info", "The running version; always 1.", ["version"],
            [((__version__,), 1.0)],
        )  # fmt: skip
        yield CounterMetricFamily(
            "bandexa_log_lines_dropped", "Log lines that nobody read in time.",
            value=log_output.dropped,
        )  # fmt: skip
        yield from self._requests()
        yield from self._store()
        yield from self._rounds()
        yield from self._trainer()
        yield from self._traffic()
        yield from self._models()
        yield from self._learning()

    def _requests(self) -> Iterator[Metric]:
        engine, metrics = self._engine, self._engine.metrics
        yield _gauge("bandexa_ready", "Whether the server is ready.", engine.failure() is None)
        yield _gauge("bandexa_requests_in_flight", "Requests under way.", metrics.in_flight)
        yield _gauge(
            "bandexa_encode_queue", "Contexts that wait for a slow encoder.",
            engine.selecting.encode_queue,
        )  # fmt: skip
        yield _histogram(
            "bandexa_select_seconds", "Time of a select, from its decoding to its commit.",
            metrics.stages.total,
        )  # fmt: skip
        yield _histograms(
            "bandexa_select_stage_seconds",
            "Time of a select by stage: decode, encode, draw, commit.", ["stage"],
            [((name,), tally) for name, tally in metrics.stages.by_name().items()],
        )  # fmt: skip
        yield _histogram(
            "bandexa_reward_seconds",
            "Time of a reward inside the engine, including its commit and its learning.",
            metrics.reward_seconds,
        )
        yield _counters(
            "bandexa_problems", "Requests, and items of batches, answered by a problem.", ["type"],
            [((name,), count) for name, count in metrics.problems.items()],
        )  # fmt: skip

    def _store(self) -> Iterator[Metric]:
        store, metrics = self._engine.store, self._engine.metrics
        times = store.times
        yield _histogram("bandexa_commit_operations", "Writes per commit.", times.operations)
        yield _histogram(
            "bandexa_commit_seconds", "Time of a commit with its writes.", times.commit
        )
        yield _histogram(
            "bandexa_commit_sync_seconds",
            "Time of the commit itself: with durability commit, of the disk's sync.",
            times.sync,
        )
        yield _histogram(
            "bandexa_checkpoint_seconds",
            "Time to write the write-ahead log back into the database.",
            times.checkpoint,
        )
        yield _gauge("bandexa_store_queue", "Writes that wait for a commit.", store.queue_depth)
        yield _gauge(
            "bandexa_store_writable", "Whether the store takes writes.", store.failure is None
        )
        yield _gauge(
            "bandexa_clock_offset_seconds",
            "How much wall time is ahead of service time: jumps of the wall clock.",
            store.clock.offset,
        )  # fmt: skip
        yield _gauge("bandexa_wal_bytes", "Size of the write-ahead log.", store.wal_bytes())
        yield _gauge(
            "bandexa_store_bytes", "Bytes of the database that hold data.", metrics.store_bytes
        )
        yield _counter(
            "bandexa_decisions_removed", "Decisions that retention removed.",
            metrics.decisions_removed,
        )  # fmt: skip

    def _rounds(self) -> Iterator[Metric]:
        metrics = self._engine.metrics
        yield _counter("bandexa_swaps", "Models swapped in.", metrics.swaps)
        yield _histogram(
            "bandexa_swap_seconds", "Time from a published snapshot to its served model.",
            metrics.swap_seconds,
        )  # fmt: skip
        yield _histogram(
            "bandexa_swap_stall_seconds", "Time of a swap on the event loop.",
            metrics.swap_stall_seconds,
        )  # fmt: skip
        yield _counter("bandexa_rounds", "Training rounds that were swapped in.", metrics.rounds)
        yield _counter(
            "bandexa_rounds_failed", "Training rounds that failed.", metrics.rounds_failed
        )
        yield _histogram(
            "bandexa_round_seconds", "Time of a training round, up to its snapshot.",
            metrics.round_seconds,
        )  # fmt: skip

    def _trainer(self) -> Iterator[Metric]:
        engine, supervisor = self._engine, self._engine.rounds.supervisor
        yield _counter(
            "bandexa_trainer_restarts", "Restarts of the trainer process.",
            engine.metrics.trainer_restarts,
        )  # fmt: skip
        yield _labelled(
            "bandexa_trainer_phase", "What the trainer does: 1 for its phase.", ["phase"],
            [((phase,), float(phase == supervisor.phase)) for phase in PHASES],
        )  # fmt: skip
        yield _gauge("bandexa_trainer_queue", "Bandits that wait for a round.", supervisor.waiting)
        yield _gauge(
            "bandexa_trainer_heartbeat_age_seconds",
            "Age of the trainer's last heartbeat; 0 between rounds.",
            supervisor.silent_s,
        )
        yield _gauge(
            "bandexa_trainer_resident_bytes",
            "Memory of the trainer process, as of its last heartbeat.",
            supervisor.resident_bytes,
        )
        replays = [
            (bandit.record.name, replay)
            for uid, replay in supervisor.replays.items()
            if (bandit := engine.live.find(uid)) is not None
        ]
        yield _labelled(
            "bandexa_replay_rows", "Rows that the bandit's last round used.", ["bandit"],
            [((name,), rows) for name, (rows, _) in replays],
        )  # fmt: skip
        yield _labelled(
            "bandexa_replay_bytes", "Bytes of those rows.", ["bandit"],
            [((name,), num_bytes) for name, (_, num_bytes) in replays],
        )  # fmt: skip

    def _traffic(self) -> Iterator[Metric]:
        bandits = [(bandit.record, bandit.vitals) for bandit in self._engine.bandits()]
        yield _counters(
            "bandexa_selects", "Answered selects, repeated ones included.", ["bandit"],
            [((record.name,), vitals.selects) for record, vitals in bandits],
        )  # fmt: skip
        yield _counters(
            "bandexa_rewards", "Rewards by status.", ["bandit", "status"],
            [
                ((record.name, status), count)
                for record, vitals in bandits
                for status, count in vitals.rewards.items()
            ],
        )  # fmt: skip
        yield _histograms(
            "bandexa_propensity",
            "Propensity of the chosen action, for decisions answered with one.", ["bandit"],
            [((record.name,), vitals.propensities) for record, vitals in bandits],
        )  # fmt: skip
        yield _labelled(
            "bandexa_reward_mean", "Mean of about the last 1,000 learned values.",
            ["bandit", "policy"],
            [
                ((record.name, record.spec.policy), vitals.reward_mean)
                for record, vitals in bandits
                if vitals.reward_mean is not None
            ],
        )  # fmt: skip
        yield _labelled(
            "bandexa_join_rate", "Rewarded per chosen actions, over about the last 1,000.",
            ["bandit"],
            [
                ((record.name,), rate)
                for record, vitals in bandits
                if (rate := vitals.join_rate()) is not None
            ],
        )  # fmt: skip

    def _models(self) -> Iterator[Metric]:
        bandits = self._engine.bandits()
        yield _gauge(
            "bandexa_bandits_set_aside",
            "Bandits that could not be recovered at the start and are not served.",
            len(self._engine.live.aside()),
        )
        yield _counter(
            "bandexa_recoveries", "Failed bandits that were recovered.",
            self._engine.metrics.recoveries,
        )  # fmt: skip
        for name, text, value in _OF_A_BANDIT:
            samples = [((bandit.record.name,), value(bandit)) for bandit in bandits]
            yield _labelled(name, text, ["bandit"], samples)

    def _learning(self) -> Iterator[Metric]:
        engine = self._engine
        found = [("", finding) for finding in server_findings(engine)]
        for bandit in engine.bandits():
            found += [(bandit.record.name, f) for f in bandit_findings(engine, bandit)]
        found += [(a.record.name, failed_finding(a.failure)) for a in engine.live.aside()]
        alarmed = any(finding.severity == ALARM for _, finding in found)
        yield _gauge("bandexa_learning", "Whether /learnz answers 200.", not alarmed)
        yield _labelled(
            "bandexa_finding",
            "A finding of /learnz; 1 while it holds. Without a bandit: of the whole server.",
            ["bandit", "finding", "severity"],
            [((name, finding.name, finding.severity), 1.0) for name, finding in found],
        )


def _untrained(bandit: Bandit) -> float:
    progress = bandit.model.progress
    return progress.num_learned - progress.trained_rows if bandit.model.learns_features else 0


_OF_A_BANDIT: tuple[tuple[str, str, Callable[[Bandit], float]], ...] = (
    ("bandexa_snapshot", "Version of the served snapshot.", lambda b: b.model.version),
    (
        "bandexa_snapshot_age_seconds", "Age of the served snapshot.",
        lambda b: max(0.0, time.time() - b.model.created_at),
    ),
    ("bandexa_position", "Log position of the served model.", lambda b: b.model.position),
    (
        "bandexa_position_lag", "Log rows applied since the served snapshot.",
        lambda b: b.model.position - b.model.base_position,
    ),
    (
        "bandexa_rows_waiting", "Committed rows that wait to be applied.",
        lambda b: b.applier.rows_waiting,
    ),
    (
        "bandexa_failed", "Whether a log row cannot be applied; 1 until it is recovered.",
        lambda b: b.applier.failure is not None,
    ),
    (
        "bandexa_learned_values", "Values learned since the bandit was created.",
        lambda b: b.model.progress.num_learned,
    ),
    ("bandexa_untrained_values", "Values learned since the last round.", _untrained),
    (
        "bandexa_actions", "Actions that are offered.",
        lambda b: len(b.model.catalogue.enabled_slots),
    ),
)  # fmt: skip


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _labelled(name: str, text: str, labels: Sequence[str], samples: Labelled) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, count: Count) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=count.value)


def _counters(
    name: str, text: str, labels: Sequence[str], samples: Labelled
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, tally: Tally) -> HistogramMetricFamily:
    return _histograms(name, text, (), [((), tally)])


def _histograms(
    name: str, text: str, labels: Sequence[str], tallies: Iterable[tuple[Sequence[str], Tally]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, tally in tallies:
        buckets = [
            ("+Inf" if bound == math.inf else repr(bound), count)
            for bound, count in tally.cumulative()
        ]
        family.add_metric(values, buckets, tally.total)
    return family
