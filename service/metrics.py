"""Prometheus metrics of the server, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """All metrics; documented in docs/operations.md."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.selects = Counter(
            "bandexa_selects", "Answered selects.", ["bandit"], registry=self.registry
        )
        self.rewards = Counter(
            "bandexa_rewards", "Rewards by status.", ["bandit", "status"], registry=self.registry
        )
        self.select_seconds = Histogram(
            "bandexa_select_seconds",
            "Time of a select inside the engine, commit included.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.reward_seconds = Histogram(
            "bandexa_reward_seconds",
            "Time of a reward inside the engine, commit included.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.swaps = Counter("bandexa_swaps", "Models swapped in.", registry=self.registry)
        self.swap_stall_seconds = Histogram(
            "bandexa_swap_stall_seconds",
            "Time of a swap on the event loop.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.trainer_restarts = Counter(
            "bandexa_trainer_restarts", "Restarts of the trainer process.", registry=self.registry
        )
        self.rounds_failed = Counter(
            "bandexa_rounds_failed", "Training rounds that failed.", registry=self.registry
        )
        self.store_bytes = Gauge(
            "bandexa_store_bytes", "Bytes of the database that hold something.",
            registry=self.registry,
        )  # fmt: skip
        self.decisions_removed = Counter(
            "bandexa_decisions_removed", "Decisions that retention removed.",
            registry=self.registry,
        )  # fmt: skip
        self.snapshot = Gauge(
            "bandexa_snapshot", "Version of the served snapshot.", ["bandit"],
            registry=self.registry,
        )  # fmt: skip
        self.position = Gauge(
            "bandexa_position", "Log position of the served model.", ["bandit"],
            registry=self.registry,
        )  # fmt: skip

    def forget(self, bandit: str) -> None:
        """Drop the series of a deleted bandit."""
        for metric in (self.selects, self.rewards, self.snapshot, self.position):
            metric.remove_by_labels({"bandit": bandit})

    def render(self) -> bytes:
        """Return the text exposition."""
        return generate_latest(self.registry)
