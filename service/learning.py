"""What the engine shows to the alarms: the sights of the server and of each bandit, now."""

from __future__ import annotations

import time

from service import alarms
from service.alarms import BanditSight, Finding, ServerSight
from service.bandit import Bandit
from service.engine import Engine


def server_findings(engine: Engine) -> list[Finding]:
    """Return what is wrong with the server as a whole."""
    if engine.desk is None:
        return []
    supervisor = engine.desk.supervisor
    return alarms.of_server(
        ServerSight(
            store_failure=engine.store.failure,
            trainer_down_s=supervisor.down_s,
            trainer_silent_s=supervisor.silent_s,
            stale_s=engine.settings.learn_stale_s,
        )
    )


def learning_of(engine: Engine, bandit: Bandit) -> list[Finding]:
    """Return what is wrong, or may be, with a bandit: alarms first."""
    if engine.desk is None:
        return []
    supervisor, uid, vitals = engine.desk.supervisor, bandit.record.uid, bandit.vitals
    model = bandit.model
    due_s = 0.0
    if model.spec.training.mode == "background" and supervisor.busy_with != uid:
        due_s = bandit.due_s(time.monotonic())
    return alarms.of_bandit(
        BanditSight(
            due_s=due_s,
            stale_s=engine.settings.learn_stale_s,
            failures=supervisor.failures.get(uid, (0, "")),
            rows_wait_s=bandit.rows_wait_s(time.monotonic()),
            minutes=vitals.minutes(),
            same_actions=vitals.actions.length,
            last_action=vitals.actions.last,
            same_values=vitals.values.length,
            last_value=vitals.values.last,
            num_values=vitals.num_values,
            outside=vitals.outside,
            reward_range=model.spec.reward_range,
            learns=model.spec.policy != "uniform",
        )
    )
