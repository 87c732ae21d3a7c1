"""Calls about the server as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from bandexa_client.answers.health import ClockState, LearnState, Readiness
from bandexa_client.answers.records import Compacted, Erased
from bandexa_client.call import Call, reads
from bandexa_client.calls.sending import Sending
from bandexa_client.sharing import shared


class ServerCalls(Sending):
    """Calls about the server as a whole."""

    @shared
    async def erase(
        self,
        *,
        unit: str | None = None,
        decision_ids: Sequence[str] | None = None,
        bandit: str | None = None,
    ) -> Erased:
        """Erase decisions and what was learned from them; it may be repeated.

        Args:
            unit: All decisions that were made for this user or session; or
            decision_ids: these decisions, up to 1000.
            bandit: Only this bandit's; None: all bandits'.

        Raises:
            TypeError: `decision_ids` is no list.
        """
        given = {"unit": unit, "bandit": bandit}
        body: dict[str, object] = {key: name for key, name in given.items() if name is not None}
        if isinstance(decision_ids, str):  # a sequence of ids of one letter
            raise TypeError("decision_ids: must be a list of ids")
        if decision_ids is not None:
            body["decision_ids"] = list(decision_ids)
        return await self._do(Call("POST", "/erase", reads(Erased), body, slow=True))

    @shared
    async def compact(self) -> Compacted:
        """Return free space of the database to the disk of the server."""
        return await self._do(Call("POST", "/compact", reads(Compacted), slow=True))

    @shared
    async def ready(self) -> Readiness:
        """Return whether the service takes requests, and why not.

        Raises:
            ServiceUnavailable: Nothing answered, or something other than the service did.
        """
        call = Call("GET", "/readyz", reads(Readiness), repeatable=False, reports_503=True)
        return await self._do(call)

    @shared
    async def learnz(self) -> LearnState:
        """Return whether every bandit learns, and what prevents it."""
        return await self._do(Call("GET", "/learnz", reads(LearnState), reports_503=True))

    @shared
    async def clock(self) -> ClockState:
        """Return service time, and how much the server's wall clock is ahead of it."""
        return await self._do(Call("GET", "/clock", reads(ClockState)))

    @shared
    async def accept_clock(self) -> ClockState:
        """Say that the server's wall clock is right: its service time moves up to it."""
        return await self._do(Call("POST", "/clock/accept", reads(ClockState)))
