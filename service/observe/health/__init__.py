"""Checks whether a server still learns, and reports what prevents it: `/learnz`.

An *alarm* is what no healthy bandit shows: somebody has to act. A *notice* may be right as it is (a
bandit that has found the best action serves it nearly always) and deserves a check in a new one.
Every check needs enough data, so that a bandit without traffic is healthy.

`server_findings` and `bandit_findings` read the engine; the checks themselves are pure functions of
what they read. Each kind of finding has a file of its own.
"""

from service.observe.health.findings import ALARM, NOTICE, Finding, Severity
from service.observe.health.observed import BanditState, ChallengerSeen, Misfit, ServerState
from service.observe.health.of_bandit import check_bandit
from service.observe.health.of_inputs import collisions, drifts, misfits
from service.observe.health.of_rewards import join_rate_drop
from service.observe.health.of_server import check_server
from service.observe.health.of_training import failed_finding
from service.observe.health.reading import bandit_findings, disk_full_in_s, server_findings

__all__ = [
    "ALARM",
    "NOTICE",
    "BanditState",
    "ChallengerSeen",
    "Finding",
    "Misfit",
    "ServerState",
    "Severity",
    "bandit_findings",
    "check_bandit",
    "check_server",
    "collisions",
    "disk_full_in_s",
    "drifts",
    "failed_finding",
    "join_rate_drop",
    "misfits",
    "server_findings",
]
