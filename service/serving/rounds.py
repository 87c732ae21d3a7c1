"""Training rounds seen from the service: order them, swap in what they publish.

The swap: keep the rows applied from now on, load the snapshot and the tail that is in the store
off the event loop, catch up off the loop until few rows remain, apply those on it and assign one
reference. No select waits for more than those few rows; rewards wait for the tail where rows come
as fast as they are applied, which would never end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import BandexaError
from bandexa_core.ids import BanditUid, LogPosition
from bandexa_core.log.rows import LogRow
from bandexa_core.model import MODEL_FILE, ServingModel
from service.observe.counters import Metrics
from service.serving.bandit import Bandit
from service.settings import Settings
from service.store.loading import load_at
from service.store.protocol import EventStore
from service.store.records import RoundRecord
from service.training.errors import RoundFailed
from service.training.supervisor import TrainerSupervisor

log = logging.getLogger(__name__)
ROWS_ON_LOOP = 8


class RoundDesk:
    """Orders rounds from the trainer and swaps their snapshots in.

    Args:
        find: Returns the live bandit of a uid, or None.
        executor: One thread, off the event loop, that loads models.
    """

    def __init__(
        self,
        settings: Settings,
        registry: EncoderRegistry,
        metrics: Metrics,
        store: EventStore,
        find: Callable[[BanditUid], Bandit | None],
        executor: Executor,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._store = store
        self._find = find
        self._executor = executor
        self._reader = store.reader()
        self.supervisor = TrainerSupervisor(
            {
                "database": str(settings.database),
                "snapshots": str(settings.snapshots),
                "replays": str(settings.replays),
                "encoders": settings.encoders,
                "weights": {name: str(path) for name, path in settings.weights.items()},
                "device": settings.device,
                "threads": settings.trainer_threads,
                "niceness": settings.trainer_niceness,
                "keep": settings.keep_snapshots,
                "epoch": store.epoch,
                "log_format": settings.log_format,
                "log_level": settings.log_level,
            },
            metrics,
        )

    def start(self) -> None:
        """Start the trainer."""
        self.supervisor.start(self)

    async def close(self) -> None:
        """End the trainer; a round under way is lost, its rows are not."""
        await self.supervisor.close()
        self._reader.close()

    def round_is_due(self, bandit: Bandit) -> None:
        """Queue a round in the background, unless one is queued or under way."""
        if not self.supervisor.is_queued(bandit.record.uid):
            self.supervisor.request(bandit.record.uid)

    async def train(self, bandit: Bandit) -> dict[str, Any]:
        """Run a round now; returns its event once its snapshot is served.

        Raises:
            RoundFailed: The round could not be completed.
        """
        return await self.supervisor.request(bandit.record.uid)

    async def forget(self, uid: BanditUid) -> None:
        """Tell the trainer that a bandit is gone."""
        await self.supervisor.forget(uid)

    # -- what the supervisor asks -------------------------------------------------------------

    async def order(self, uid: BanditUid) -> dict[str, Any] | None:
        """See `Rounds.order`: up to what is applied, which is committed and now synced."""
        bandit = self._find(uid)
        if bandit is None:
            return None
        position = bandit.model.position
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: None, error: Exception | None) -> None:
            if synced.done():  # the server is shutting down
                return
            if error is None:
                synced.set_result(None)
            else:
                synced.set_exception(RoundFailed(str(error)))

        self._store.sync(done)
        await synced
        return {"uid": uid, "position": position, "served": bandit.model.version}

    async def published(self, uid: BanditUid, event: dict[str, Any]) -> None:
        """See `Rounds.published`.

        Raises:
            RoundFailed: The snapshot is not what was published.
        """
        bandit = self._find(uid)
        if bandit is None:
            return
        bandit.start_tail()
        begun = time.perf_counter()
        metrics = event["metrics"]
        loop = asyncio.get_running_loop()
        model: ServingModel | None = None
        try:
            head = bandit.model.position
            loaded = await loop.run_in_executor(
                self._executor, self._load, bandit, event["version"], head
            )
            before: int | None = None
            while _is_long(tail := bandit.tail_after(loaded), loaded):
                if before is not None and len(tail) > before // 2:
                    bandit.hold()  # rows come about as fast as they are applied: the next ones wait
                before = len(tail)
                await loop.run_in_executor(self._executor, _catch_up, bandit, loaded, tail)
            if self._find(uid) is not bandit:  # deleted meanwhile, and with it its rows
                return
            started = time.perf_counter()
            _catch_up(bandit, loaded, tail)
            model = loaded
        except BandexaError as error:
            raise RoundFailed(f"snapshot {event['version']} cannot be served: {error}") from error
        finally:
            bandit.swap(model)
        ended = time.perf_counter()
        self._metrics.swap_stall_seconds.observe(ended - started)
        self._metrics.swap_seconds.observe(ended - begun)
        self._metrics.swaps.inc()
        self._note(
            bandit,
            RoundRecord(
                time=time.time(),
                version=event["version"],
                position=event["position"],
                seconds=metrics["round_seconds"] + ended - begun,
                swap_s=ended - begun,
                loss_before=metrics.get("loss_before"),
                loss_after=metrics.get("loss_after"),
                error=None,
            ),
        )
        if model.spec.training.mode == "background" and model.round_due():
            self.supervisor.request(uid)

    def failed(self, uid: BanditUid, error: str, seconds: float) -> None:
        """See `Rounds.failed`."""
        bandit = self._find(uid)
        if bandit is not None:
            self._note(
                bandit, RoundRecord(time.time(), None, None, seconds, None, None, None, error)
            )

    def _note(self, bandit: Bandit, record: RoundRecord) -> None:
        """Keep a round for people to look at; nobody waits for it."""

        def kept(_: None, error: Exception | None) -> None:
            if error is not None:
                log.warning("a training round of %s is not noted: %s", bandit.record.name, error)

        self._store.append_round(bandit.record, record, kept)

    def _load(self, bandit: Bandit, version: int, head: LogPosition) -> ServingModel:
        snapshot = bandit.snapshots.load(version, (MODEL_FILE,))
        return load_at(
            self._reader, bandit.record, self._registry, bandit.snapshots, snapshot, head
        )


def _is_long(tail: list[LogRow], model: ServingModel) -> bool:
    """Whether applying the rows takes too long for the event loop."""
    slow = bool(tail) and model.slow_encoder is not None
    return slow or len(tail) > ROWS_ON_LOOP or any(model.share_before(row) < 1.0 for row in tail)


def _catch_up(bandit: Bandit, model: ServingModel, rows: list[LogRow]) -> None:
    for row in rows:
        model.apply(row, bandit.load_import)
