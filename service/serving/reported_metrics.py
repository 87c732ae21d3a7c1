"""The metrics that are reported for a bandit: which names are taken, and their totals.

Used on the event loop. The totals are those of the store; they follow its steps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bandexa_core.log.configurations import Configurations
from bandexa_core.log.metrics import Totals
from bandexa_core.log.rows import Metrics
from bandexa_core.spec import MAX_METRICS, METRIC_NAME
from service.store.errors import InvalidRequest
from service.store.protocol import Step

FIELD = "metrics"


class ReportedMetrics:
    """The metrics of one bandit.

    Args:
        configurations: Those of the bandit.
        totals: Of its metrics so far, by name.

    Attributes:
        totals: Of how many values each metric is part, and its sum over them.
        learn: The weights that are served, or else wanted; None: rewards are single numbers.
        any_learn: The newest weights that there were.
    """

    def __init__(
        self, configurations: Configurations, totals: Mapping[str, Totals] | None = None
    ) -> None:
        self.totals = dict(totals or {})
        self._names = set(self.totals)
        self.configure(configurations)

    def configure(self, configurations: Configurations) -> None:
        """Take what the newest configuration says."""
        self.learn, self.any_learn = configurations.learn, configurations.any_learn
        self._declared = configurations.metrics

    def check(self, metrics: Metrics) -> None:
        """Check the names of a report; nothing changes, because it may yet be refused.

        Raises:
            InvalidRequest: A name cannot be taken.
        """
        declared, learn = self._declared, self.learn or {}
        for name, _ in metrics:
            if name in learn or (name in self._names and declared is None):
                continue
            if declared is not None:
                if name not in declared:
                    known = ", ".join(sorted({*declared, *learn}))
                    raise InvalidRequest(f"{FIELD}.{name[:64]}", f"must be one of {known}")
            elif not re.fullmatch(METRIC_NAME, name):
                raise InvalidRequest(
                    FIELD, f"{name[:64]!r} is no name: it takes 1 to 64 of A-Za-z0-9._:-"
                )
            known_names = self._names | learn.keys()
            if len(known_names) >= MAX_METRICS and name not in known_names:
                raise InvalidRequest(
                    f"{FIELD}.{name}",
                    f"a bandit has at most {MAX_METRICS}: {', '.join(sorted(known_names))}",
                )

    def take(self, metrics: Metrics) -> None:
        """Note the names of a report that is being stored: they count as known from here on."""
        self._names.update(name for name, _ in metrics)

    def add(self, step: Step) -> None:
        """Count a step that is stored."""
        for name, count, added in step.metric_totals():
            known = self.totals.get(name, Totals())
            self.totals[name] = Totals(known.num_values + count, known.total + added)
