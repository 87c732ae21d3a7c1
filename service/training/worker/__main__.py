"""The trainer's process: it reads orders and writes events, a JSON object per line.

The supervisor runs it as `python -m service.training.worker`; the first line is its configuration.
It exits when its input closes. It watches its input from the start, before the slow imports: a
server that is killed at any time leaves no trainer behind.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.training.messages import Event

log = logging.getLogger(__name__)


def main() -> None:
    """Serve orders until standard input closes."""
    # Events alone go to the real standard output; a print of a user's encoder must not.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the server is gone; nothing here is worth finishing

    threading.Thread(target=listen, name="orders", daemon=True).start()
    from service.training.messages import line_of

    def report(event: Event) -> None:
        events.write(line_of(event))
        events.flush()

    _serve(lines, report)


def _serve(lines: queue.SimpleQueue[str], report: Callable[[Event], None]) -> None:
    from service.observe import logs
    from service.training.errors import BanditGone
    from service.training.messages import (
        Failed,
        ForgetOrder,
        Gone,
        Heartbeat,
        Ready,
        configuration_in,
    )
    from service.training.worker.heartbeat import Heartbeats
    from service.training.worker.orders import WaitingOrders
    from service.training.worker.ranks import LOST, RankLost, StartedRanks
    from service.training.worker.trainer import Trainer

    configuration = configuration_in(lines.get())
    logs.configure(configuration.log_format, configuration.log_level, "trainer")
    os.nice(configuration.niceness)  # requests go first
    _end_first_without_memory()
    ranks = StartedRanks(configuration) if configuration.processes > 1 else None
    orders = WaitingOrders(lines)

    def beat(heartbeat: Heartbeat) -> None:
        orders.check_wanted(order.uid)
        report(heartbeat)

    trainer = Trainer(configuration, Heartbeats(beat), ranks)
    report(Ready(os.getpid()))
    while True:
        order = orders.next()
        if isinstance(order, ForgetOrder):
            trainer.forget(order.uid)
            continue
        try:
            report(trainer.round(order))
        except BanditGone:
            report(Gone())
        except RankLost as error:
            log.error("the round starts again: %s", error)
            os._exit(LOST)  # the supervisor starts this process, and orders the round again
        except Exception as error:  # the top of the loop: the supervisor counts what is reported
            if trainer.is_gone(order.uid):  # deleted during the round, and its rows with it
                report(Gone())
                continue
            log.exception("round failed")
            report(Failed(f"{type(error).__name__}: {error}"))


def _end_first_without_memory() -> None:
    """Make the kernel end this process, not the server, where memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # a larger one needs no privilege
            file.write("1000")
    except OSError as error:
        log.debug("the trainer is not the first to end without memory: %s", error)


if __name__ == "__main__":
    main()
