"""Fixtures of the store tests: a real store on a real file, and records with defaults."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.ids import (
    ActionId,
    ActionSlot,
    DecisionId,
    DecisionKey,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.policies.named_inputs import padded
from bandexa_core.schema import to_bytes
from bandexa_core.spec import BanditSpec, ContextSpec, RewardSpec
from service.store.identity import first_key
from service.store.objects import trimmed
from service.store.protocol import Durability, EventStore
from service.store.records import BanditRecord, ChosenAction, DecisionRecord, RewardReport
from service.store.sqlite.store import SqliteStore

ANSWER_WITHIN_S = 20.0
_PLACES = itertools.count(1)  # each decision gets another key


class Asking:
    """Calls appends.

    Attributes:
        answered: The futures that `ask` returned, in the order of the answers.
    """

    def __init__(self) -> None:
        self.answered: list[Future[Any]] = []

    def ask(self, append: Callable[..., None], *args: Any) -> Future[Any]:
        """Call an append and return a future of its callback's result."""
        future: Future[Any] = Future()

        def done(result: Any, error: Exception | None) -> None:
            assert error is None or result is None, "a callback gets a result or an error"
            self.answered.append(future)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        append(*args, done)
        return future


class StoreClient(Asking):
    """Opens stores on one file, calls them and waits for their answers.

    Attributes:
        groups: The number of answers of each committed group; complete once the store is closed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.groups: list[int] = []
        self._clock = itertools.count(1)
        self._open: list[SqliteStore] = []

    def open(
        self,
        durability: Durability = "os",
        gather: Callable[[Callable[[], None]], None] | None = None,
    ) -> SqliteStore:
        """Open the store; its clock is a counter, so that every row has another time."""
        store = SqliteStore(
            self.path, durability, self._deliver, lambda: float(next(self._clock)), gather
        )
        self._open.append(store)
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()

    def _deliver(self, answer: Callable[[], None]) -> None:
        before = len(self.answered)
        answer()
        self.groups.append(len(self.answered) - before)

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        """Call an append and wait for its answer."""
        return self.ask(append, *args).result(ANSWER_WITHIN_S)


def make_spec(**changes: Any) -> BanditSpec:
    """Return a small configuration."""
    given = {"policy": "linear_ts", "context": ContextSpec(shape=(3,)), "action_dim": 2, "seed": 7}
    return BanditSpec(**(given | changes))  # type: ignore[arg-type]


def make_decision(
    bandit: BanditRecord,
    decision_id: str,
    *,
    actions: tuple[str, ...] = ("a0",),
    body_hash: bytes | None = None,
    salt: int = 0,
) -> DecisionRecord:
    """Return a decision whose arrays follow from its id and the salt."""
    rng = np.random.default_rng([salt, *decision_id.encode()])
    spec = bandit.spec
    if spec.context.shape is None:
        context = np.frombuffer(make_object(rng), np.uint8)
    else:
        context = (rng.random(spec.context.shape) * 200).astype(spec.context.dtype)
    chosen = tuple(
        ChosenAction(
            ActionId(action), index, ActionSlot(index), trimmed(row)
            if row.dtype == np.uint8 else row, float(rng.random()),
        )
        for index, (action, row) in enumerate(
            zip(actions, make_features(spec, len(actions), rng), strict=True)
        )
    )  # fmt: skip
    key = DecisionKey(first_key(bandit.key) + next(_PLACES))
    return DecisionRecord(
        decision_id=DecisionId(decision_id), key=key, bandit=bandit.key, time=5.0,
        body_hash=body_hash,
        context=context, chosen=chosen, candidates=None, features=None,
        snapshot=SnapshotVersion(0), position=LogPosition(0), propensity=None, activated=True,
    )  # fmt: skip


def make_object(rng: np.random.Generator) -> bytes:
    """Return an object with named features as its JSON."""
    return to_bytes({"kind": "\u00e4" * int(rng.integers(1, 9)), "price": float(rng.random())})


def make_features(spec: BanditSpec, num: int, rng: np.random.Generator) -> NDArray[Any]:
    """Return features of actions as they are logged."""
    if spec.actions.features is None:
        return rng.random((num, spec.action_dim)).astype(np.float32)
    size = spec.actions.max_bytes
    return np.stack([padded(make_object(rng), size) for _ in range(num)])


def make_report(decision_id: str, reward: float = 1.0, action: str | None = None) -> RewardReport:
    """Return a reward."""
    named = None if action is None else ActionId(action)
    return RewardReport(DecisionId(decision_id), reward, None, named, 6.0)


def creating(store: EventStore) -> Callable[..., None]:
    """Return an append that creates a bandit, given name and configuration; without a snapshot."""

    def create(name: str, spec: BanditSpec, done: Callable[..., None]) -> None:
        with store.reader() as reader:
            uid = reader.next_uid(name)
        store.create_bandit(uid, name, spec, done)

    return create


class Blocker:
    """Blocks the writer between two commits until `release`: what is asked meanwhile is a group."""

    def __init__(self, client: StoreClient, store: SqliteStore) -> None:
        entered, self._released = threading.Event(), threading.Event()

        def block(_: None, error: Exception | None) -> None:
            entered.set()
            assert self._released.wait(20)

        store.append_propensity(DecisionKey(0), 0.5, block)
        assert entered.wait(20)

    def release(self) -> None:
        self._released.set()

    def __enter__(self) -> Blocker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Caller(Protocol):
    """Calls an append and waits for its answer."""

    def call(self, append: Callable[..., None], *args: Any) -> Any: ...


class Make:
    """Builders of records, as one fixture."""

    spec = staticmethod(make_spec)
    decision = staticmethod(make_decision)
    report = staticmethod(make_report)

    @staticmethod
    def last_counts() -> RewardSpec:
        return RewardSpec(aggregate="last", clip_outliers=True)

    @staticmethod
    def window(seconds: float) -> RewardSpec:
        return RewardSpec(reward_window_s=seconds)

    @staticmethod
    def bandit(client: Caller, store: EventStore, name: str = "b", **changes: Any) -> BanditRecord:
        """Create a bandit without a snapshot."""
        record = client.call(creating(store), name, make_spec(**changes))
        assert isinstance(record, BanditRecord)
        return record


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture
def client(tmp_path: Path) -> Iterator[StoreClient]:
    client = StoreClient(tmp_path / "bandexa.db")
    yield client
    client.close()


@pytest.fixture
def store(client: StoreClient) -> SqliteStore:
    return client.open()
