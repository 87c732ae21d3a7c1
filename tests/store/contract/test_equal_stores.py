"""Two stores get the same operations in the same turns: their answers and contents are equal.

A state machine asks for anything that a server does, alone or together with others, and compares
the answers, and after each commit everything that can be read. Nothing here says what is right: the
other tests of this folder do.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from bandexa_core.ids import (
    ActionId,
    DecisionId,
    DecisionKey,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.log import contract
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.contract import DecisionState, Reported
from bandexa_core.spec import (
    BanditSpec,
    ContextSpec,
    ForgettingSpec,
    RewardSpec,
    SelectionSpec,
)
from bandexa_core.spec.inputs import ActionsSpec
from service.store.errors import ServiceError
from service.store.identity import is_server_form
from service.store.protocol import Due, FoundDecision, Reportable, Step
from service.store.records import BanditRecord, DecisionRecord, RoundRecord
from tests.fixtures.matrices import examples
from tests.fixtures.postgres import Cluster
from tests.store.conftest import make_decision, make_features, make_spec
from tests.store.contract.readable import FAR, Readers, plain
from tests.store.contract.turns import MEMORY, POSTGRES, SQLITE, Clock, Turns
from tests.store.reporting import reportable

PICK = st.integers(0, 1 << 16)
VALUES = st.sampled_from([0.0, -0.0, 0.1, 0.7, 1.0, -3.5, 1e16])
REWARD_IDS = st.sampled_from([None, "r0", "r1", "r2"])
ACTIONS = ("a0", "a1", "a2", "a3")
MOST_IDS = 12  # decisions that are looked up after each commit
MOST_REWARDS = 6


@st.composite
def specs(draw: st.DrawFn) -> BanditSpec:
    """Return a configuration in which what the store looks at differs."""
    window = draw(st.sampled_from([None, 2.0, 60.0]))
    default = None if window is None else draw(st.sampled_from([None, 0.25]))
    aggregate: Any = draw(st.sampled_from(["first", "last", "last", "sum", "mean"]))
    named = draw(st.booleans())
    array = ContextSpec(shape=(2, 2), dtype=draw(st.sampled_from(["uint8", "float32"])))
    return make_spec(
        context=ContextSpec(features="auto", max_bytes=80) if named else array,
        actions=ActionsSpec(features="auto", max_bytes=96) if named else ActionsSpec(),
        action_dim=0 if named else 2,
        policy="neural_linear_ts" if named else "linear_ts",
        rewards=RewardSpec(
            aggregate=aggregate,
            reward_window_s=window,
            default_reward=default,
            learn=draw(st.sampled_from([None, {"money": 2.0, "click": -0.5}])),
        ),
        forgetting=ForgettingSpec(half_life=draw(st.sampled_from([None, 32.0]))),
    )


SPECS = specs()
REPORTED = (("click",), ("click", "money"), ("views",), ("money",))


def outcome(rules: RewardSpec, value: float, number: int) -> contract.Outcome:
    """Return what is reported: a value, or some metrics of it."""
    if rules.learn is None:
        return value
    return tuple((name, value * 0.5**place) for place, name in enumerate(REPORTED[number % 4]))


def comparable(future: Future[Any]) -> Any:
    """Return an answer as a value that can be compared."""
    error = future.exception(0)
    if error is not None:
        assert isinstance(error, ServiceError), repr(error)
        return type(error).__name__, str(error)
    result = future.result(0)
    if isinstance(result, FoundDecision):
        assert result.rewards is not None
        rewards = {key: sorted(values, key=str) for key, values in result.rewards.items()}
        return plain(result.decision), plain(rewards)
    return plain(sorted(result, key=str) if isinstance(result, list) else result)


class BothStores(RuleBasedStateMachine):
    """The same bandits, decisions and reports in two stores.

    Args:
        url: An empty database for the second store; None: it is in memory.
    """

    def __init__(self, url: str | None = None) -> None:
        super().__init__()
        self.url = url
        self.num_commits = 0
        self.compared_every = 1 if url is None else 4  # commits: to read a database takes longer

    @initialize(spec=SPECS, other=SPECS, num=st.integers(1, 8))
    def begin(self, spec: BanditSpec, other: BanditSpec, num: int) -> None:
        self.exit = ExitStack()
        folder = Path(self.exit.enter_context(tempfile.TemporaryDirectory()))
        self.clock = Clock()
        file = Turns(SQLITE, folder, self.clock)
        kind = MEMORY if self.url is None else POSTGRES
        other_store = Turns(kind, folder, self.clock, self.url)
        self.clients = [file, other_store]
        for client in self.clients:
            self.exit.callback(client.close)
        first = file.open()
        self.ids = first.ids
        if self.url is not None:
            other_store.take_ids(file.path)
        self.stores = [first, other_store.open(first.ids)]
        self.readers = [self.exit.enter_context(Readers(store)) for store in self.stores]
        self.bandits: list[BanditRecord] = []  # all that ever were
        self.live: list[BanditRecord] = []
        self.known: dict[DecisionId, Reportable] = {}  # with the state that was asked for
        self.outdated: list[Reportable] = []
        self.made: list[DecisionRecord] = []  # also those that are gone
        self.num_asked = 0
        self.is_compared = True
        self.create("a", spec)
        self.create("b", other)
        self.decide(1, num, 1, "all", server_made=False, active=True, propensity=None)
        for decision in list(self.known.values())[num // 2 :]:
            self.reward(decision, 0, 0.7, None)
            self.commit()

    def teardown(self) -> None:
        if hasattr(self, "exit"):
            self.exit.close()

    # -- asking -------------------------------------------------------------------------------

    def ask(self, operation: str, *args: Any) -> None:
        """Ask both stores; it is committed later, together with what else was asked."""
        for client, store in zip(self.clients, self.stores, strict=True):
            client.ask(getattr(store, operation), *args)
        self.num_asked += 1

    def commit(self) -> list[Future[Any]]:
        """Commit what was asked, compare the answers, and return those of the first store."""
        self.num_asked, self.is_compared = 0, False
        self.num_commits += 1
        answers = [client.commit() for client in self.clients]
        first, second = ([comparable(future) for future in each] for each in answers)
        assert first == second
        return answers[0]

    def call(self, operation: str, *args: Any) -> Any:
        """Ask, commit, and return the answer."""
        self.ask(operation, *args)
        return self.commit()[-1].result(0)

    def trim_all(self, *args: Any) -> None:
        """Trim until nothing is left to do; one store may need more calls than the other."""
        self.commit()
        for client, store in zip(self.clients, self.stores, strict=True):
            while client.call(store.trim_log, *args).more:
                pass

    @rule()
    def end_turn(self) -> None:
        self.commit()

    @invariant()
    def turns_are_not_long(self) -> None:
        if getattr(self, "num_asked", 0) > 12:
            self.commit()

    @invariant()
    def both_hold_the_same(self) -> None:
        if getattr(self, "num_asked", 1) or self.is_compared:
            return
        if self.num_commits % self.compared_every == 0:
            self.compare()

    def compare(self) -> None:
        ids = [record.decision_id for record in self.made[-MOST_IDS:]]
        ids += [self.ids.text(record.key) for record in self.made[-2:]]
        first, second = (
            readers.everything(self.bandits, ids, self.clock.now) for readers in self.readers
        )
        for name, value in first.items():
            assert value == second[name], name
        assert first.keys() == second.keys()
        self.is_compared = True

    # -- bandits ------------------------------------------------------------------------------

    @rule(name=st.sampled_from(["a", "b", "c"]), spec=SPECS)
    def create(self, name: str, spec: BanditSpec) -> None:
        self.commit()
        self.ask("create_bandit", self.readers[0].log.next_uid(name), name, spec)
        (answer,) = self.commit()
        if answer.exception(0) is None:
            self.bandits.append(answer.result(0))
            self.live.append(answer.result(0))

    @precondition(lambda self: self.live)
    @rule(pick=PICK, is_behind=st.booleans())
    def delete(self, pick: int, is_behind: bool) -> None:
        self.commit()
        bandit = self.live.pop(pick % len(self.live))
        self.ask("delete_bandit", bandit)
        if is_behind:
            self.ask("append_config", bandit, bandit.spec)
            self.ask("append_decision", make_decision(bandit, f"behind-{pick}"))
            self.ask("trim_log", bandit, LogPosition(9), 3)
        self.commit()
        self.known = {k: v for k, v in self.known.items() if v.bandit.key != bandit.key}

    def bandit(self, pick: int) -> BanditRecord:
        """Return a bandit; sometimes one that was deleted, or is deleted in this turn."""
        if pick % 16 == 0:
            return self.bandits[pick // 16 % len(self.bandits)]
        return self.live[0] if pick % 3 else self.live[pick // 3 % len(self.live)]

    # -- decisions ----------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(
        pick=PICK,
        num=st.sampled_from([1, 1, 1, 3, 3, 40, 70]),
        chosen=st.integers(1, 3),
        offered=st.sampled_from(["all", "some", "inline"]),
        server_made=st.booleans(),
        active=st.booleans(),
        propensity=st.sampled_from([None, 0.5]),
    )
    def decide(
        self, pick: int, num: int, chosen: int, offered: str, server_made: bool, active: bool,
        propensity: float | None,
    ) -> None:  # fmt: skip
        bandit = self.bandit(pick)
        for _ in range(num):
            record = make_decision(bandit, f"d{len(self.made)}", actions=ACTIONS[:chosen])
            names = tuple(ActionId(name) for name in ACTIONS)
            features = make_features(bandit.spec, 4, np.random.default_rng(len(self.made)))
            record = replace(
                record,
                decision_id=self.ids.text(record.key) if server_made else record.decision_id,
                time=self.clock.now,
                body_hash=None if server_made else bytes([num] * 16),
                candidates=None if offered == "all" else names,
                features=features if offered == "inline" else None,
                position=self.readers[0].log.head(bandit.key),
                snapshot=SnapshotVersion(pick % 5),
                propensity=propensity,
                activated=active,
                explored=[None, False, True][pick % 3],
                std=None if server_made else 0.5,
                arm="control" if pick % 2 else None,
                served=names[0] if pick % 4 == 1 else None,
                shadows={"dark": names[pick % 3], "flat": names[1]} if pick % 3 else None,
            )
            self.ask("append_decision", record)
            self.made.append(record)
            if bandit in self.live:
                new = DecisionState.of(chosen, activated=active)
                self.known[record.decision_id] = reportable(bandit, record, new)

    @precondition(lambda self: self.made)
    @rule(pick=PICK)
    def decide_again(self, pick: int) -> None:
        record = self.made[pick % len(self.made)]
        again = make_decision(self.live[0] if self.live else self.bandits[0], "x", salt=pick)
        if record.decision_id in self.known:
            key = record.key if is_server_form(record.decision_id) else again.key
            self.ask("append_decision", replace(again, decision_id=record.decision_id, key=key))

    @precondition(lambda self: self.made)
    @rule(pick=PICK, reward_id=REWARD_IDS, value=VALUES)
    def look_up(self, pick: int, reward_id: str | None, value: float) -> None:
        record = self.made[-1 - pick % len(self.made)]
        self.ask("append_propensity", record.key, 0.25)
        self.ask("find_decision", record.decision_id)
        self.ask("find_decision", DecisionId("nobody"))
        reward = outcome(RewardSpec(learn={"click": 1.0} if pick % 2 else None), value, pick)
        self.ask("find_repeats", record.key, pick % len(record.chosen), reward_id, reward)

    # -- reports ------------------------------------------------------------------------------

    def step(self, decision: Reportable, change: contract.Change, **more: Any) -> None:
        self.outdated = [*self.outdated[-5:], decision]
        self.ask("append_step", Step(decision, change, self.clock.now, **more))
        self.known[decision.id] = replace(decision, state=change.state)

    def reward(self, decision: Reportable, item: int, value: float, reward_id: str | None) -> None:
        rules = decision.bandit.spec.rewards
        if rules.aggregate in ("sum", "mean"):
            reward_id = reward_id or f"r{decision.state.version}"
        reward = outcome(rules, value, item + decision.state.version)
        reported = Reported(item % len(decision.actions), reward, reward_id)
        try:
            _, change = contract.report(decision.state, reported, rules, MOST_REWARDS)
        except ValueError:  # it has all rewards that it may have
            return
        if change is not None:
            self.step(decision, change, reported=reported)

    @precondition(lambda self: self.known)
    @rule(
        picks=st.lists(
            st.tuples(PICK, st.integers(0, 2), VALUES, REWARD_IDS), min_size=1, max_size=5
        )
    )
    def rewards_arrive(self, picks: Sequence[tuple[int, int, float, str | None]]) -> None:
        """Several may be for one decision: each starts from the state that the one before made."""
        for pick, item, value, reward_id in picks:
            names = list(self.known)
            decision = self.known[names[-1 - pick % min(4, len(names))]]
            self.reward(decision, item, value, reward_id)

    @precondition(lambda self: self.known)
    @rule(value=VALUES)
    def every_decision_is_rewarded(self, value: float) -> None:
        for decision in list(self.known.values()):
            if decision.state.version < 2:
                self.reward(decision, 0, value, None)
        self.commit()

    @precondition(lambda self: self.known)
    @rule(pick=PICK)
    def activate(self, pick: int) -> None:
        decision = list(self.known.values())[pick % len(self.known)]
        _, change = contract.activate(decision.state, decision.bandit.spec.rewards)
        if change is not None:
            self.step(decision, change)

    @precondition(lambda self: self.known)
    @rule(picks=st.lists(st.tuples(PICK, st.integers(0, 7)), min_size=1, max_size=4))
    def values_become_void(self, picks: Sequence[tuple[int, int]]) -> None:
        for pick, which in picks:
            decision = list(self.known.values())[pick % len(self.known)]
            items = [n for n in range(len(decision.actions)) if which >> n & 1]
            change = contract.void(decision.state, items, decision.bandit.spec.rewards)
            if change is not None:
                self.step(decision, change)

    @precondition(lambda self: self.known)
    @rule(pick=PICK, item=st.integers(0, 2), value=VALUES)
    def a_value_is_corrected(self, pick: int, item: int, value: float) -> None:
        decision = list(self.known.values())[pick % len(self.known)]
        item, rules = item % len(decision.actions), decision.bandit.spec.rewards
        reward = outcome(rules, value, pick)
        try:
            _, change = contract.correct(decision.state, item, reward, rules, MOST_REWARDS)
        except ValueError:  # it has all rewards that it may have
            return
        if change is not None:
            self.step(decision, change, reported=Reported(item, reward, None))

    @precondition(lambda self: self.outdated)
    @rule(pick=PICK)
    def an_outdated_step_arrives(self, pick: int) -> None:
        decision = self.outdated[pick % len(self.outdated)]
        rules = decision.bandit.spec.rewards
        if (change := contract.close(decision.state, rules)) is not None:
            self.ask("append_step", Step(decision, change, self.clock.now))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.5, 3.0, 3.5, 100.0]), is_looked=st.booleans())
    def time_passes(self, seconds: float, is_looked: bool) -> None:
        self.commit()
        self.clock.now += seconds
        if is_looked:
            due: Due = self.call("due_windows")
            for closes, decision in due.windows:
                change = contract.close(decision.state, decision.bandit.spec.rewards)
                assert change is not None
                self.step(decision, change, closes=closes)

    # -- other rows ---------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(pick=PICK, kind=st.sampled_from(["change", "change", "config", "import", "round"]))
    def something_else_happens(self, pick: int, kind: str) -> None:
        bandit = self.bandit(pick)
        if kind == "change":
            self.ask("append_change", bandit, self.change(bandit, pick))
        elif kind == "config":
            half_life = [None, 64.0, 128.0][pick % 3]
            forgetting = ForgettingSpec(by="time" if pick % 2 else "count", half_life=half_life)
            selection = SelectionSpec(warmup_random=pick % 5)
            spec = dataclasses.replace(bandit.spec, selection=selection, forgetting=forgetting)
            self.ask("append_config", bandit, spec)
        elif kind == "import":
            self.ask("append_import", bandit, SnapshotVersion(pick % 9))
        else:
            error = "lost" if pick % 2 else None
            record = RoundRecord(self.clock.now, pick % 5, 3, 1.5, None, 0.5, None, error)
            self.ask("append_round", bandit, record)

    def change(self, bandit: BanditRecord, pick: int) -> CatalogueChange:
        """Return a change of the catalogue; sometimes one that leaves the features."""
        names = tuple(ActionId(name) for name in ACTIONS[: 1 + pick % 3])
        known = self.readers[0].log.catalogue_at(bandit, FAR).slots
        features = make_features(bandit.spec, len(names), np.random.default_rng(pick))
        leaves = pick % 2 and all(name in known for name in names)
        enabled = np.full(len(names), pick % 5 > 0, np.bool_)
        return CatalogueChange(names, None if leaves else features, enabled)

    # -- retention ----------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(
        pick=PICK,
        back=st.integers(0, 5),
        size=st.sampled_from([0, 2, 5, 1000]),
        how=st.sampled_from(["alone", "together", "and drop"]),
        age=st.sampled_from([-1.0, 0.0, 2.0, 50.0]),
    )
    def trim(self, pick: int, back: int, size: int, how: str, age: float) -> None:
        bandit, log = self.bandit(pick), self.readers[0].log
        up_to = LogPosition(max(0, log.head(bandit.key) - back))
        if how == "together":  # with what else is asked: it ends the groups before it
            self.ask("trim_log", bandit, up_to, size)
            return
        self.trim_all(bandit, up_to, size)
        if how == "and drop":
            made = [record for record in self.made if record.time < self.clock.now - age]
            before = max((record.key for record in made), default=DecisionKey(0))
            self.call("drop_decisions", bandit, before, DecisionKey(0))
            self.known = {k: v for k, v in self.known.items() if log.answer(k) is not None}

    @precondition(lambda self: self.live)
    @rule(pick=PICK, is_allowed=st.booleans())
    def trim_the_catalogue(self, pick: int, is_allowed: bool) -> None:
        bandit, log = self.bandit(pick), self.readers[0].log
        position = log.removable_changes(bandit.key)[0] if is_allowed else log.head(bandit.key)
        try:
            catalogue = log.catalogue_at(bandit, position)
        except ServiceError:  # it was trimmed further
            return
        self.ask("trim_catalogue", bandit, catalogue, position)


SETTINGS = settings(
    max_examples=examples(5, 15), stateful_step_count=40, deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink a failure takes more than a test's time
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestBothStores = BothStores.TestCase
TestBothStores.settings = SETTINGS


@pytest.mark.needs("postgres")
def test_a_database_beside_a_file(postgres: Cluster) -> None:
    with ExitStack() as schemas:

        class BesideFile(BothStores):
            def __init__(self) -> None:
                schemas.close()  # that of the example before
                super().__init__(schemas.enter_context(postgres.empty()))

        run_state_machine_as_test(
            BesideFile, settings=settings(SETTINGS, max_examples=examples(1, 4))
        )
