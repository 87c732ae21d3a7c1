"""What a call of the service needs: a way to be sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from bandexa_client.call import Call
from bandexa_client.retrying import Retry

T = TypeVar("T")


class Sending(ABC):
    """Sends calls; a client says how."""

    _retry: Retry

    @abstractmethod
    async def _do(self, call: Call[T], within_s: float | None = None) -> T:
        """Send a call, again where that helps, and return its value.

        Raises:
            BanditError: It failed.
        """
