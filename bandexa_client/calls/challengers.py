"""Calls about configurations that learn beside the served one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bandexa_client.answers.arms import ChallengerState
from bandexa_client.answers.bandits import BanditState
from bandexa_client.call import Call, path, reads, reads_nothing
from bandexa_client.calls.sending import Sending
from bandexa_client.sharing import shared


class ChallengerCalls(Sending):
    """Calls about configurations that learn beside the served one."""

    @shared
    async def put_challenger(
        self, bandit: str, challenger: str, differs: Mapping[str, object] | None = None
    ) -> ChallengerState:
        """Declare a challenger, or change it; it learns the bandit's log and serves nothing.

        Args:
            bandit: Its bandit.
            challenger: Its name; "linear" and "greedy" need no configuration.
            differs: In what its configuration differs: `encoder`, `policy`, `posterior`,
                `reward_range`, `forgetting`, `context`, `actions`; and `promotion`, how it is
                promoted: docs/challengers.md.
        """
        where = path(bandit, "challengers", challenger)
        body = dict(differs or {})
        return await self._do(Call("PUT", where, reads(ChallengerState), body, slow=True))

    @shared
    async def challenger(self, bandit: str, challenger: str) -> ChallengerState:
        """Return a challenger, and how it compares with what was served."""
        where = path(bandit, "challengers", challenger)
        return await self._do(Call("GET", where, reads(ChallengerState)))

    @shared
    async def list_challengers(self, bandit: str) -> list[ChallengerState]:
        """Return the challengers of a bandit, by name."""
        found = await self._do(Call("GET", path(bandit, "challengers"), reads(_Challengers)))
        return list(found.challengers)

    @shared
    async def delete_challenger(self, bandit: str, challenger: str) -> None:
        """Remove a challenger; a trial of it ends, and what is served stays."""
        where = path(bandit, "challengers", challenger)
        await self._do(Call("DELETE", where, reads_nothing, repeatable=False))

    @shared
    async def promote(
        self, bandit: str, challenger: str, *, share: float = 1.0, wait: bool = False
    ) -> BanditState:
        """Give a challenger a share of the decisions, or make its configuration the bandit's.

        Args:
            bandit: Its bandit.
            challenger: Its name.
            share: Up to 0.5: a trial; 1: its configuration is learned from the log, and served.
            wait: Return once it is served.
        """
        where = path(bandit, "challengers", challenger, "promote") + ("?wait=true" if wait else "")
        body: dict[str, object] = {"share": share}
        call = Call("POST", where, reads(BanditState), body, repeatable=False, slow=True)
        return await self._do(call)

    @shared
    async def demote(self, bandit: str, challenger: str) -> BanditState:
        """End the trial of a challenger, or serve again what it replaced, with all rows since."""
        where = path(bandit, "challengers", challenger, "demote")
        call = Call("POST", where, reads(BanditState), repeatable=False, slow=True)
        return await self._do(call)


@dataclass(frozen=True, slots=True)
class _Challengers:
    challengers: tuple[ChallengerState, ...]
