"""The trainer's process: orders in on standard input, events out, a JSON object per line.

Run as `python -m service.training.worker` by the supervisor; the first line is the configuration.
It exits when its input closes, which it watches from its first moment, before the slow imports: a
server that is killed at any time leaves no trainer behind.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def main() -> None:
    """Serve orders until standard input closes."""
    # Only events go to the real standard output; a stray print of a user's encoder must not.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        os._exit(0)  # the server is gone; nothing here is worth finishing

    def report(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    threading.Thread(target=listen, name="orders", daemon=True).start()
    _serve(orders, report)


def _serve(
    orders: queue.SimpleQueue[dict[str, Any]], report: Callable[[dict[str, Any]], None]
) -> None:
    import torch  # seconds; the listener is watching already

    from bandexa_core.ids import BanditUid, LogPosition
    from service.observe import logs
    from service.serving.errors import UnknownBandit
    from service.training.worker.heartbeat import Heartbeat
    from service.training.worker.trainer import Trainer

    configuration = orders.get()
    logs.configure(configuration["log_format"], configuration["log_level"], "trainer")
    os.nice(configuration["niceness"])  # requests go first
    torch.set_num_threads(configuration["threads"])
    trainer = Trainer(configuration, Heartbeat(report))
    report({"event": "ready", "pid": os.getpid()})
    while True:
        order = orders.get()
        uid = BanditUid(order["uid"])
        if order["do"] == "forget":
            trainer.forget(uid)
            continue
        try:
            report(trainer.round(uid, LogPosition(order["position"]), order["served"]))
        except UnknownBandit:
            report({"event": "gone"})
        except Exception as error:  # the top of the loop: reported, counted by the supervisor
            if trainer.is_gone(uid):  # deleted in the middle of it, and its rows with it
                report({"event": "gone"})
                continue
            log.exception("round failed")
            report({"event": "failed", "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
