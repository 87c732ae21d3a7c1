"""An export of a log that changes under it."""

from __future__ import annotations

import pytest

from service.store.errors import StoreError
from service.tools.export.rows import LogRows, moment_of, moment_text
from tests.store.conftest import Make
from tests.store.logs import learn


def test_a_bandit_that_is_deleted_meanwhile_breaks_the_export_off(client) -> None:
    store, make = client.open(), Make
    bandit = make.bandit(client, store)
    learn(client, store, make, bandit, 0, 6)
    with store.reader() as reader, store.history() as history:
        rows = LogRows(reader, history, bandit)
        assert len([row for row in rows.page(2) if row["kind"] == "decision"]) == 2
        client.call(store.delete_bandit, bandit)
        while rows.more:
            rows.page(2)
        with pytest.raises(StoreError, match="deleted meanwhile"):
            rows.end()


def test_a_moment_goes_through_text(client) -> None:
    store, make = client.open(), Make
    bandit = make.bandit(client, store)
    learn(client, store, make, bandit, 0, 3)
    with store.reader() as reader, store.history() as history:
        moment = history.moment(bandit)
        assert moment_of(moment_text(moment), bandit) == moment
        for wrong in ("", "1.2", "1.2.x", "-1.0.0", f"{1 << 60}.0.0"):
            with pytest.raises(ValueError, match=r"^moment: "):
                moment_of(wrong, bandit)
        whole = list(LogRows(reader, history, bandit, moment))
        assert [row["kind"] for row in whole] == ["bandit", *["decision"] * 3, "end"]
