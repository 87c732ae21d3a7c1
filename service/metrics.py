"""Metrics of the server, in a registry of their own; docs/metrics.md lists every one.

What happens with every request is counted in tallies, which `exposition` turns into metrics when
they are read; what happens seldom is counted right here. Used on the event loop.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from bandexa_core import __version__
from service.tally import SECONDS, StageTimes, Tally

MINUTES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics that no live object holds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.stages = StageTimes()
        self.reward_seconds = Tally()
        self.in_flight = 0
        self.problems = self._counter(
            "bandexa_problems", "Requests, and items of batches, answered by a problem.", "type"
        )
        self.swaps = self._counter("bandexa_swaps", "Models swapped in.")
        self.swap_seconds = self._histogram(
            "bandexa_swap_seconds", "From a published snapshot to its model being served.", MINUTES
        )
        self.swap_stall_seconds = self._histogram(
            "bandexa_swap_stall_seconds", "Time of a swap on the event loop.", SECONDS
        )
        self.rounds = self._counter("bandexa_rounds", "Training rounds that were swapped in.")
        self.round_seconds = self._histogram(
            "bandexa_round_seconds", "Time of a training round, up to its snapshot.", MINUTES
        )
        self.trainer_restarts = self._counter(
            "bandexa_trainer_restarts", "Restarts of the trainer process."
        )
        self.rounds_failed = self._counter("bandexa_rounds_failed", "Training rounds that failed.")
        self.store_bytes = self._gauge(
            "bandexa_store_bytes", "Bytes of the database that hold something."
        )
        self.decisions_removed = self._counter(
            "bandexa_decisions_removed", "Decisions that retention removed."
        )
        build = Gauge(
            "bandexa_build_info", "The running version; always 1.", ["version"],
            registry=self.registry,
        )  # fmt: skip
        build.labels(__version__).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=bounds, registry=self.registry)

    def problem(self, kind: str) -> None:
        """Count a problem that a caller was told, by the name at the end of its type."""
        self.problems.labels(kind.removeprefix("urn:bandexa:")).inc()

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)
