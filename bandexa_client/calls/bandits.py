"""Calls about bandits and their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx

from bandexa_client.answers.arms import Values
from bandexa_client.answers.bandits import ActionState, BanditState, Catalogue, Plan, Replayed
from bandexa_client.answers.health import NotedFindings
from bandexa_client.answers.records import AuditTrail
from bandexa_client.arrays import Array
from bandexa_client.call import Call, path, reads, reads_nothing
from bandexa_client.calls.sending import Sending
from bandexa_client.requests import (
    Actions,
    catalogue_body,
)
from bandexa_client.sharing import shared

_PAGE = 10_000  # the most actions that the service lists at once
_BANDITS = 1000  # in one page


class BanditCalls(Sending):
    """Calls about bandits and their actions."""

    @shared
    async def put_bandit(
        self,
        bandit: str,
        spec: Mapping[str, object],
        *,
        wait: bool = False,
        etag: str | None = None,
        only_new: bool = False,
    ) -> BanditState:
        """Create a bandit, or change its configuration.

        Where a model has to be learned anew for a change, the bandit is served as it was until
        then, and `rebuild` says how far that is.

        Args:
            bandit: Its name.
            spec: Its configuration.
            wait: Return once what has to be learned anew is served.
            etag: That of an earlier answer: change it only while its configuration is that one.
            only_new: Create it, and change none that is there; it is not sent again.

        Raises:
            Conflict: `spec` differs in a key that the log cannot answer for.
            PreconditionFailed: Somebody else has changed it meanwhile; with `only_new`, there is
                a bandit of this name. Nothing was changed.
        """

        def read(response: httpx.Response) -> BanditState:
            return replace(_tagged(response), created=response.status_code == 201)

        where = path(bandit) + ("?wait=true" if wait else "")
        call = Call(
            "PUT", where, read, spec, slow=wait, repeatable=not only_new,
            conditions=_conditions(etag, only_new),
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def set_mode(
        self, bandit: str, mode: str = "learn", *, serve: str | None = None
    ) -> BanditState:
        """Change who decides from the next decision on, and nothing else.

        Args:
            bandit: Its name.
            mode: learn: arms and bandit, by their shares; frozen: the same, and nothing is learned
                until it is learn again; control_only: the arm `guard.arm`.
            serve: One action, which is served wherever it is offered; None: none is.
        """
        body = {"mode": mode, "serve": serve}
        return await self._do(Call("PUT", path(bandit, "mode"), reads(BanditState), body))

    @shared
    async def audit(
        self, bandit: str, *, before: int | None = None, limit: int = 100
    ) -> AuditTrail:
        """Return who changed a bandit, when, and what that changed; newest first.

        The entries of a name outlive its bandit.

        Args:
            bandit: Its name.
            before: `next` of an earlier call; None: the newest.
            limit: How many at most, up to 1000.
        """
        query = f"?limit={limit}" + ("" if before is None else f"&before={before}")
        return await self._do(Call("GET", path(bandit, "audit") + query, reads(AuditTrail)))

    @shared
    async def findings(self, bandit: str) -> NotedFindings:
        """Return what was wrong with a bandit, and when: the last 200 findings, newest first."""
        return await self._do(Call("GET", path(bandit, "findings"), reads(NotedFindings)))

    @shared
    async def values(self, bandit: str, *, limit: int = 100) -> Values:
        """Return what arms and actions earned, with intervals that hold at any time.

        `limit`: How many actions, those with the most values.
        """
        return await self._do(Call("GET", f"{path(bandit, 'values')}?limit={limit}", reads(Values)))

    @shared
    async def plan_bandit(
        self,
        bandit: str,
        spec: Mapping[str, object],
        *,
        etag: str | None = None,
        only_new: bool = False,
    ) -> Plan:
        """Return what `put_bandit` would do; nothing is changed.

        Raises:
            Conflict, PreconditionFailed: As `put_bandit` would.
        """
        where, conditions = path(bandit) + "?dry_run=true", _conditions(etag, only_new)
        return await self._do(Call("PUT", where, reads(Plan), spec, conditions=conditions))

    @shared
    async def replay_bandit(self, bandit: str, to: str, spec: Mapping[str, object]) -> Replayed:
        """Create the bandit `to`, which learns the rows of `bandit` under another configuration.

        It returns once they are learned. `bandit` itself is not changed.

        Raises:
            Conflict: `to` exists, or its contexts or actions have another form.
        """
        body = {"to": to, "spec": spec}
        where = path(bandit, "replay")
        return await self._do(
            Call("POST", where, reads(Replayed), body, repeatable=False, slow=True)
        )

    @shared
    async def get_bandit(self, bandit: str) -> BanditState:
        """Return configuration and progress of a bandit; `etag` is for `put_bandit`."""
        return await self._do(Call("GET", path(bandit), _tagged))

    @shared
    async def delete_bandit(self, bandit: str) -> None:
        """Delete a bandit with its decisions and snapshots."""
        return await self._do(Call("DELETE", path(bandit), reads_nothing, repeatable=False))

    @shared
    async def list_bandits(self) -> list[BanditState]:
        """Return configuration and progress of every bandit, sorted by name."""
        first = f"/bandits?limit={_BANDITS}"
        page = await self._do(Call("GET", first, reads(_Bandits)))
        found = list(page.bandits)
        while page.next is not None:
            following = Call("GET", f"{first}&after={page.next}", reads(_Bandits))
            page = await self._do(following)
            found += page.bandits
        return found

    @shared
    async def put_actions(
        self,
        bandit: str,
        actions: Actions,
        features: Array | Sequence[Mapping[str, object]] | None = None,
        enabled: Sequence[bool] | None = None,
    ) -> Catalogue:
        """Add actions, or overwrite those of the same ids. Others stay as they are.

        Args:
            bandit: Its name.
            actions: Ids, or `{id, features, enabled}` each.
            features: With ids: an array of shape (len(actions), action_dim), or a dict with named
                features for each. None leaves those of known actions as they are; new ones need
                features where the bandit's actions have some.
            enabled: With ids: whether each action is offered; None offers all of them.

        Raises:
            ValueError: `features` or `enabled` do not have a row for each action.
        """
        body = catalogue_body(actions, features, enabled)
        return await self._do(Call("PUT", path(bandit, "actions"), reads(Catalogue), body))

    @shared
    async def list_actions(
        self, bandit: str, *, offset: int = 0, limit: int | None = None
    ) -> list[ActionState]:
        """Return actions in the order of their slots, retired ones included.

        Args:
            bandit: Its name.
            offset: The slot to begin at.
            limit: How many to return; None: all. Requests hold up to 10,000 each.
        """
        found: list[ActionState] = []
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            where = f"{path(bandit, 'actions')}?offset={offset + len(found)}&limit={size}"
            page = await self._do(Call("GET", where, reads(_ActionPage)))
            found += page.actions
            if not page.actions or offset + len(found) >= page.total:
                break
        return found

    @shared
    async def retire_action(self, bandit: str, action: str) -> Catalogue:
        """Stop offering an action; what was learned of it stays. `put_actions` offers it again."""
        return await self._do(Call("DELETE", path(bandit, "actions", action), reads(Catalogue)))


@dataclass(frozen=True, slots=True)
class _Bandits:
    bandits: tuple[BanditState, ...]
    next: str | None  # a server without pages sends none


@dataclass(frozen=True, slots=True)
class _ActionPage:
    total: int
    actions: tuple[ActionState, ...]


def _conditions(etag: str | None, only_new: bool) -> dict[str, str]:
    """Return the headers that say when a change may take effect."""
    if etag == "":
        raise ValueError("etag: the earlier answer had none")
    if etag is not None and only_new:
        raise ValueError("etag: a bandit that is only_new has none yet")
    if only_new:
        return {"If-None-Match": "*"}
    return {} if etag is None else {"If-Match": etag}


def _tagged(response: httpx.Response) -> BanditState:
    """Read a bandit with the version of its configuration."""
    return replace(reads(BanditState)(response), etag=response.headers.get("ETag", ""))
