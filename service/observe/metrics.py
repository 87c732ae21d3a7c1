"""The metrics of a server, in Prometheus' text format.

They are read from the engine when they are requested, on the event loop: those of the server in one
step, those of bandits in `bandit_metrics`. A deleted bandit leaves no metrics. Importing
prometheus_client takes 33 ms, which is why the route of `/metrics` imports this module, not the
server's start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

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
from service.observe.bandit_metrics import bandit_metrics
from service.observe.counters import Count, Tally
from service.observe.health import disk_full_in_s
from service.serving.engine import Engine
from service.store.sharing import Member, SharingStore
from service.training.supervisor import PHASES

Labelled = Iterable[tuple[Sequence[str], float]]
__all__ = ["CONTENT_TYPE_LATEST", "exposition", "of_replica", "of_server"]


async def exposition(
    engine: Engine, *, histograms: bool, member: Member | None = None
) -> list[bytes]:
    """Return all metrics in Prometheus' text format, of type `CONTENT_TYPE_LATEST`, in parts.

    Args:
        engine: The engine.
        histograms: Whether those of single bandits are among them.
        member: This server among those that share a database; None: it has it alone.
    """
    return [
        generate_latest(_EngineCollector(engine, member)),
        *await bandit_metrics(engine, histograms=histograms),
    ]


def of_replica(engine: Engine) -> bytes:
    """Return what a process that serves beside the keeper has to say of itself."""
    return generate_latest(_ReplicaCollector(engine))


def of_server(engine: Engine, member: Member) -> bytes:
    """Return the metrics of a server that is not the keeper of a database that others share."""
    return generate_latest(_ServerCollector(engine, member))


class _EngineCollector(Collector):
    """Collects the metrics of an engine and this process."""

    def __init__(self, engine: Engine, member: Member | None = None) -> None:
        self._engine = engine
        self._member = member

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._process()
        yield from self._requests()
        yield from self._commits()
        yield from self._space()
        yield from self._backups()
        yield from self._swaps()
        yield from self._rounds()
        yield from self._trainer()
        yield from self._models()
        yield from self._sharing()

    def _process(self) -> Iterator[Metric]:
        yield from ProcessCollector(registry=None).collect()
        yield _labelled(
            "bandexa_build_info", "The running version; always 1.", ["version"],
            [((__version__,), 1.0)],
        )  # fmt: skip
        yield CounterMetricFamily(
            "bandexa_log_lines_dropped", "Log lines that nobody read in time.",
            value=log_output.dropped,
        )  # fmt: skip

    def _requests(self) -> Iterator[Metric]:
        engine, metrics = self._engine, self._engine.metrics
        yield _gauge("bandexa_ready", "Whether the server is ready.", engine.failure() is None)
        yield _gauge("bandexa_requests_in_flight", "Requests under way.", metrics.in_flight)
        yield _counters(
            "bandexa_http_requests", "Requests by their status; 499: the client left before.",
            ["method", "route", "status"],
            [((method, route, str(status)), count)
             for (method, route, status), count in metrics.requests.items()],
        )  # fmt: skip
        yield _histograms(
            "bandexa_http_request_seconds", "Time of a request up to the end of its answer.",
            ["route"], [((route,), tally) for route, tally in metrics.request_seconds.items()],
        )  # fmt: skip
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

        yield _counter(
            "bandexa_personalizer_unknown_events",
            "Rewards and activations of events that do not exist, from Personalizer's clients.",
            metrics.unknown_events,
        )

    def _commits(self) -> Iterator[Metric]:
        store = self._engine.store
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

    def _space(self) -> Iterator[Metric]:
        store, metrics = self._engine.store, self._engine.metrics
        yield _gauge("bandexa_wal_bytes", "Size of the write-ahead log.", store.wal_bytes())
        yield _gauge(
            "bandexa_wal_pinned_seconds", "For how long a reader has prevented that it is emptied.",
            store.wal_pinned_s(),
        )  # fmt: skip
        yield _gauge(
            "bandexa_store_bytes", "Bytes of the database that hold data.", metrics.store_bytes
        )
        yield _gauge(
            "bandexa_disk_free_bytes", "Bytes that can be written to the disk of the database.",
            metrics.disk_free_bytes,
        )  # fmt: skip
        growth = metrics.growth.rate
        if growth is not None:
            yield _gauge(
                "bandexa_store_growth_bytes_per_second",
                "Growth of the database over the last day, or since the start.", growth,
            )  # fmt: skip
        full_in_s = disk_full_in_s(self._engine)
        if full_in_s is not None:
            yield _gauge(
                "bandexa_disk_full_in_seconds",
                "When the disk is full at this growth; +Inf: not of decisions.", full_in_s,
            )  # fmt: skip
        yield _counter(
            "bandexa_decisions_removed", "Decisions that retention removed.",
            metrics.decisions_removed,
        )  # fmt: skip

    def _backups(self) -> Iterator[Metric]:
        backups = self._engine.metrics.backups
        if backups is None:
            return
        yield _gauge(
            "bandexa_backup_age_seconds", "Age of the newest complete scheduled backup.",
            backups.age_s(time.time()),
        )  # fmt: skip
        yield _gauge("bandexa_backup_seconds", "How long the newest one took.", backups.seconds)
        yield _gauge("bandexa_backup_bytes", "Size of the newest one.", backups.bytes)
        for name, text, value in (
            ("bandexa_backups", "Scheduled backups that were made.", backups.made),
            ("bandexa_backups_failed", "Scheduled backups that failed.", backups.failed),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _swaps(self) -> Iterator[Metric]:
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

    def _rounds(self) -> Iterator[Metric]:
        metrics = self._engine.metrics
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

    def _models(self) -> Iterator[Metric]:
        yield _gauge(
            "bandexa_bandits_set_aside",
            "Bandits that could not be recovered at the start and are not served.",
            len(self._engine.live.aside()),
        )
        yield _counter(
            "bandexa_recoveries", "Failed bandits that were recovered.",
            self._engine.metrics.recoveries,
        )  # fmt: skip

    def _sharing(self) -> Iterator[Metric]:
        engine, member = self._engine, self._member
        if member is None:
            return
        yield _gauge("bandexa_keeper", "Whether this server is the keeper.", member.is_keeper)
        yield _gauge("bandexa_servers", "Servers that share the database now.", member.live)
        yield _gauge(
            "bandexa_follow_lag_rows",
            "Log rows that wait to be applied here, of the bandit that has most of them.",
            max((bandit.applier.rows_waiting for bandit in engine.bandits()), default=0),
        )
        yield CounterMetricFamily(
            "bandexa_overtaken_groups",
            "Groups of writes that were made again because another server was faster.",
            value=cast(SharingStore, engine.store).overtaken,  # a server with a place has one
        )
        yield CounterMetricFamily(
            "bandexa_diverged",
            "How often this server built its models anew, because the log has lost their rows.",
            value=member.diverged.value,
        )


class _ReplicaCollector(_EngineCollector):
    """Collects the requests of a process, and the process itself."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from ProcessCollector(registry=None).collect()
        yield from self._requests()


class _ServerCollector(_EngineCollector):
    """Collects what a server does that is not the keeper; bandits and the database are its."""

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._process()
        yield from self._requests()
        yield from self._commits()
        yield from self._swaps()
        yield from self._models()
        yield from self._sharing()


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
