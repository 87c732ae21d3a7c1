"""A further rank of a trainer: it shares the rounds that rank 0 names, and publishes nothing.

`StartedRanks` runs it as `python -m service.training.worker.peer`; the first line of its input is
its configuration. It exits when its input closes, so it never outlives rank 0. A round that raises
ends it: rank 0 starts it again.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.training.worker.ranks import JoinedRanks
    from service.training.worker.trainer import Trainer

log = logging.getLogger(__name__)


def main() -> None:
    """Share rounds until standard input closes."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # rank 0 is gone

    threading.Thread(target=listen, name="end", daemon=True).start()
    import msgspec

    from service.observe import logs
    from service.training.worker.heartbeat import Heartbeats
    from service.training.worker.ranks import FAILED, PeerConfiguration, met_ranks
    from service.training.worker.trainer import Trainer

    own = msgspec.json.decode(lines.get(), type=PeerConfiguration)
    logs.configure(own.trainer.log_format, own.trainer.log_level, f"rank-{own.rank}")
    ranks = met_ranks(own)
    trainer = Trainer(own.trainer, Heartbeats(lambda beat: None), ranks)
    try:
        share_rounds(trainer, ranks)
    except Exception:  # the top of the process: rank 0 starts another one
        log.exception("rank %d of %d failed", ranks.rank, ranks.size)
        os._exit(FAILED)


def share_rounds(trainer: Trainer, ranks: JoinedRanks) -> None:
    """Carry out what rank 0 names; it returns by an exception alone.

    A trainer that torchrun has started with another rank than 0 does this, and nothing else.
    """
    from service.training.messages import ForgetOrder

    while True:
        order = ranks.next_order()
        if isinstance(order, ForgetOrder):
            trainer.forget(order.uid)
            continue
        trainer.round(order)
        ranks.check_begun()


if __name__ == "__main__":
    main()
