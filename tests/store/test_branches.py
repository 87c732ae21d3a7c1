"""A decision names the log row that it was drawn at, and is stored where the log has that row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bandexa_core.ids import DecisionId, LogPosition
from service.store.address import PostgresUrl
from service.store.errors import Conflict, StoreError
from service.store.postgres.store import PostgresStore
from service.store.records import BanditRecord, DecisionRecord, RewardReport
from tests.fixtures.postgres import Cluster
from tests.store.conftest import ANSWER_WITHIN_S, Asking, make_decision, make_spec
from tests.store.reporting import rewards

pytestmark = pytest.mark.needs("postgres")


class Branch(Asking):
    """A store with a bandit whose log has some rows."""

    def __init__(self, store: PostgresStore, num_rows: int) -> None:
        super().__init__()
        self.store = store
        with store.reader() as reader:
            uid = reader.next_uid("shop")
        self.bandit: BanditRecord = self.call(store.create_bandit, uid, "shop", make_spec())
        for number in range(num_rows):
            made = make_decision(self.bandit, f"taught{number}")
            self.call(store.append_decision, made)
            self.call(rewards(store), RewardReport(made.decision_id, 1.0, None, None, 6.0))

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        return self.ask(append, *args).result(ANSWER_WITHIN_S)

    def drawn(self, name: str, position: int, digest: bytes | None) -> DecisionRecord:
        """Return a decision that was drawn at a row."""
        made = make_decision(self.bandit, name)
        return made._replace(position=LogPosition(position), log_hash=digest)

    def hash_at(self, position: int) -> bytes:
        with self.store.reader() as reader:
            found = reader.hash_at(self.bandit.key, LogPosition(position))
        assert found is not None
        return found


@pytest.fixture
def branch(postgres: Cluster) -> Iterator[Branch]:
    with postgres.empty() as url:
        store = PostgresStore(PostgresUrl(url), "os", lambda answer: answer())
        yield Branch(store, 3)
        store.close()


def test_a_decision_at_any_row_of_the_log_is_stored(branch: Branch) -> None:
    store = branch.store
    assert branch.call(store.append_decision, branch.drawn("begin", 0, b"")) is None
    for position in (1, 2, 3):
        made = branch.drawn(f"at{position}", position, branch.hash_at(position))
        assert branch.call(store.append_decision, made) is None
    assert store.failure is None


@pytest.mark.parametrize("case", ["another row", "no such row"])
def test_a_decision_of_a_lost_branch_ends_the_writer(branch: Branch, case) -> None:
    store = branch.store
    position, digest = (2, b"x" * 16) if case == "another row" else (4, branch.hash_at(3))
    with pytest.raises(StoreError, match="has lost row"):
        branch.call(store.append_decision, branch.drawn("lost", position, digest))
    assert store.failed_for_good
    with store.reader() as reader:
        assert reader.answer(DecisionId("lost")) is None


def test_a_row_that_was_trimmed_is_known_while_it_is_the_last_of_them(branch: Branch) -> None:
    store, digest = branch.store, branch.hash_at(2)
    branch.call(store.trim_log, branch.bandit, LogPosition(2), 0)
    assert branch.call(store.append_decision, branch.drawn("kept", 2, digest)) is None


def test_a_decision_of_a_deleted_bandit_is_refused_alone(branch: Branch) -> None:
    store, digest = branch.store, branch.hash_at(3)
    branch.call(store.delete_bandit, branch.bandit)
    with pytest.raises(Conflict):
        branch.call(store.append_decision, branch.drawn("late", 3, digest))
    assert store.failure is None
