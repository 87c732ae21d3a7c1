"""Calls about the log: exports, imports, and what they say of other configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlencode

import httpx

from bandexa_client.answers.advice import Advice
from bandexa_client.answers.arms import EvaluationState
from bandexa_client.answers.decisions import (
    Imported,
)
from bandexa_client.answers.records import LogPage
from bandexa_client.arrays import Features, sendable
from bandexa_client.call import Call, path, reads, reads_items, reads_nothing
from bandexa_client.calls.sending import Sending
from bandexa_client.decoding import Mismatch, as_object, decode
from bandexa_client.errors import Rejected
from bandexa_client.sharing import shared


class EvidenceCalls(Sending):
    """Calls about the log: exports, imports, and what they say of other configurations."""

    @shared
    async def export_log(
        self, bandit: str, *, after: int = 0, moment: str | None = None, limit: int = 1000
    ) -> LogPage:
        """Return decisions with all that came of them, oldest first: a page of the log.

        Args:
            bandit: Its name.
            after: The `row` of the page before; 0 for the first page.
            moment: The `moment` of the first page, so that all pages are of one moment; None: now.
            limit: How many decisions at most.
        """
        query = f"?after={after}&limit={limit}"
        if moment is not None:
            query += f"&moment={quote(moment, safe='')}"
        where = path(bandit, "log") + query
        return await self._do(Call("GET", where, _reads_log, slow=True))

    @shared
    async def import_log(
        self,
        bandit: str,
        items: Sequence[Mapping[str, object]],
        *,
        source: str = "",
        logged: bool = False,
        dry_run: bool = False,
    ) -> list[Imported | Rejected]:
        """Import up to 1000 decisions that were made elsewhere; it may be repeated.

        Args:
            bandit: Its name.
            items: Dicts with `id`, `context`, `action`, and as far as known `time`, `candidates`,
                `propensity`, `propensities`, `value` or `metrics`, and `delay`: docs/evaluation.md.
            source: Of which log the ids are: equal ids of others are other decisions.
            logged: The items are of an export: what is a digest there is not hashed again.
            dry_run: Store nothing, and check each by itself.
        """
        body: dict[str, object] = {
            "items": [{key: _sent(key, each) for key, each in item.items()} for item in items],
            "source": source, "logged": logged, "dry_run": dry_run,
        }  # fmt: skip
        read = reads_items(Imported, len(items))
        return await self._do(Call("POST", path(bandit, "log"), read, body, slow=True))

    @shared
    async def advice(
        self,
        bandit: str,
        *,
        precision: float = 0.05,
        difference: float | None = None,
        decisions: int | None = None,
        variance: float | None = None,
        actions: int | None = None,
    ) -> Advice:
        """Return which control or floor shows a difference within a number of decisions.

        Args:
            bandit: Its name.
            precision: The difference to be seen, as a share of the range.
            difference: The same in the unit of rewards, in its place.
            decisions: Within how many; None: those of 28 days, by the traffic of the last week.
            variance: Of rewards; None: that of the values of the last week.
            actions: How many there are to choose from; None: the enabled ones.
        """
        given = {
            "precision": precision, "difference": difference, "decisions": decisions,
            "variance": variance, "actions": actions,
        }  # fmt: skip
        query = urlencode({key: value for key, value in given.items() if value is not None})
        return await self._do(Call("GET", f"{path(bandit, 'advice')}?{query}", reads(Advice)))

    @shared
    async def start_evaluation(
        self,
        bandit: str,
        *,
        actions: Sequence[str] = (),
        configs: Mapping[str, Mapping[str, object]] | None = None,
        value_range: tuple[float, float] | None = None,
        missing: float | None = None,
        alpha: float = 0.05,
        precision: float = 0.05,
        method: str | None = None,
    ) -> EvaluationState:
        """Have policies evaluated on the log, beside the server; returned at once.

        Args:
            bandit: Its name.
            actions: Serving each of these always.
            configs: Other configurations, by a name.
            value_range: Lowest and highest value; None: the bandit's `reward_range`.
            missing: The value of decisions without one; None: they are left out.
            alpha: How often an interval may ever be wrong.
            precision: The difference that should be seen, as a share of the range; for advice.
            method: Of intervals; None: what suits each policy.
        """
        body: dict[str, object] = {
            "actions": list(actions), "configs": dict(configs or {}), "missing": missing,
            "range": None if value_range is None else list(value_range), "alpha": alpha,
            "precision": precision, "method": method,
        }  # fmt: skip
        where = path(bandit, "evaluations")
        return await self._do(Call("POST", where, reads(EvaluationState), body, repeatable=False))

    @shared
    async def evaluation(
        self, bandit: str, evaluation: str, *, wait: bool = False
    ) -> EvaluationState:
        """Return an evaluation with its result; with `wait`, once it has ended."""
        where = path(bandit, "evaluations", evaluation) + ("?wait=true" if wait else "")
        return await self._do(Call("GET", where, reads(EvaluationState), slow=wait))

    @shared
    async def list_evaluations(self, bandit: str) -> list[EvaluationState]:
        """Return the evaluations of a bandit, newest first, without their results."""
        found = await self._do(Call("GET", path(bandit, "evaluations"), reads(_Evaluations)))
        return list(found.evaluations)

    @shared
    async def delete_evaluation(self, bandit: str, evaluation: str) -> None:
        """Cancel an evaluation that has not ended; remove one that has."""
        where = path(bandit, "evaluations", evaluation)
        await self._do(Call("DELETE", where, reads_nothing))


@dataclass(frozen=True, slots=True)
class _Evaluations:
    evaluations: tuple[EvaluationState, ...]


def _sent(key: str, value: object) -> object:
    """Return a part of an imported decision as it is sent."""
    return sendable(cast(Features, value)) if key == "context" else value


def _reads_log(response: httpx.Response) -> LogPage:
    rows = [as_object(json.loads(line)) for line in response.content.splitlines()]
    kinds = [row.get("kind") for row in rows]
    if not rows or kinds[0] != "bandit" or kinds[-1] != "end":
        detail = rows[-1].get("detail") if rows else None
        raise Mismatch(f"the log broke off: {detail or 'its last line is missing'}")
    end = decode(_LogEnd, {key: rows[-1].get(key) for key in ("row", "more")})
    moment = decode(str, rows[0].get("moment"))
    return LogPage(tuple(dict(row) for row in rows), end.row, moment, end.more)


@dataclass(frozen=True, slots=True)
class _LogEnd:
    row: int
    more: bool
