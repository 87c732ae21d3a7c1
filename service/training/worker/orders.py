"""The orders that the server has sent to the trainer, and a look ahead for deleted bandits.

One thread puts lines in; the main thread takes orders out, in the order of the lines. During a
round it also looks at those that wait: a round of a bandit that is to be forgotten ends at its next
heartbeat.
"""

from __future__ import annotations

import queue
from collections import deque

from bandexa_core.ids import BanditUid
from service.training.errors import BanditGone
from service.training.messages import ForgetOrder, Order, order_in


class WaitingOrders:
    """Orders that are not carried out yet.

    Args:
        lines: The lines that the server has sent, after the configuration.
    """

    def __init__(self, lines: queue.SimpleQueue[str]) -> None:
        self._lines = lines
        self._read: deque[Order] = deque()

    def next(self) -> Order:
        """Wait for the next order."""
        return self._read.popleft() if self._read else order_in(self._lines.get())

    def check_wanted(self, uid: BanditUid) -> None:
        """Check that no order to forget a bandit waits.

        Raises:
            BanditGone: One does.
        """
        while not self._lines.empty():  # nobody else takes lines out
            self._read.append(order_in(self._lines.get()))
        if any(isinstance(order, ForgetOrder) and order.uid == uid for order in self._read):
            raise BanditGone("the bandit was deleted during the round")
