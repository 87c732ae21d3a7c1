"""What findings are made of: the observations of a server and of a bandit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bandexa_core.evaluation import Interval
from bandexa_core.log.promotions import Trip
from bandexa_core.spec.warnings import Unlearnable
from service.observe.backups import BackupStanding
from service.observe.counters import Traffic
from service.observe.evidence import Evidence
from service.observe.silence import Loss
from service.serving.applier import Failure
from service.serving.challengers import Score, State


class ChallengerSeen(NamedTuple):
    """A challenger: its name, what has become of it, and how it compares, if that is known."""

    name: str
    state: State
    score: Score | None


NOTHING = Evidence()


@dataclass(frozen=True, slots=True)
class ServerState:
    """The observations of a server.

    Attributes:
        store_failure: Why the store takes no writes, None while it takes them.
        trainer_down_s: Seconds without a trainer process; 0 while there is one.
        trainer_silent_s: Seconds since the trainer's last heartbeat; 0 between rounds.
        stale_s: How long training may make no progress.
        wal_pinned_s: Seconds for which a reader has prevented that the write-ahead log is emptied.
        wal_bytes: The size of that log.
        clock_offset_s: How much wall time is ahead of service time.
        backups: How scheduled backups stand, and the time; None: there are none.
        disk_full_in_s: When the disk is full at the growth of the database; None: not known.
        disk_free_bytes: What can be written to it.
    """

    store_failure: str | None
    trainer_down_s: float
    trainer_silent_s: float
    stale_s: float
    wal_pinned_s: float = 0.0
    wal_bytes: int = 0
    clock_offset_s: float = 0.0
    backups: tuple[BackupStanding, float] | None = None
    disk_full_in_s: float | None = None
    disk_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Misfit:
    """A named feature that an encoding cannot read in a part of the requests.

    Attributes:
        path: Side and path, such as "context.device".
        what: "unseen" for categories outside of the vocabulary, "wrong" for other types.
        share: The share of the counted requests.
        num_rows: How many requests were counted.
    """

    path: str
    what: str
    share: float
    num_rows: int


@dataclass(frozen=True, slots=True)
class BanditState:
    """The observations of a bandit.

    Attributes:
        due_s: Seconds since a background round became due; 0 while none is due or one runs.
        stale_s: How long that may be.
        failures: How many rounds failed in a row, and the last one's error.
        rows_wait_s: Seconds that committed rows have waited to be applied.
        traffic: The traffic since the server's start.
        same_actions: How many decisions in a row chose `last_action` among several candidates.
        same_values: How many learned values in a row were `last_value`.
        num_values: Learned values since the server's start.
        outside: The share of about the last 1,000 values outside of `reward_range`.
        clips: Whether values outside of `reward_range` are learned as its ends.
        learns: Whether its policy learns at all.
        failure: Why its log is not applied; None while it is.
        extremes: Extreme values in contexts: the column, how many, the last one.
        num_contexts: How many contexts were examined for them.
        extreme_action: An enabled action with an extreme feature, its index and value; or None.
        num_clipped: How many values were clipped before they were learned.
        clipped: The last of them and what was learned for it, where that was recently; or None.
        misfits: Named features of many requests that the encoding cannot read: see `Misfit`.
        collisions: Ids whose places are shared, with the share of their values, the worst first.
        change_error: Why the wanted configuration could not be learned; None: nothing failed.
        trip: Why a guard made an arm serve everything; None: none did, or a person changed it.
        worse: Arms that the bandit is worse than, with the interval of its lift over each.
        warnings: What cannot be learned under the configuration.
        evidence: What its recent values say.
        enabled: Whether an action is offered.
        num_enabled: How many are.
        held: Values that wait because it is frozen; None: it is not.
        loss: What shows that rewards have stopped; None: nothing does.
        drifts: Fields of contexts whose values have moved, with their index, the largest first.
        challengers: They, by name.
    """

    due_s: float
    stale_s: float
    failures: tuple[int, str]
    rows_wait_s: float
    traffic: Traffic
    same_actions: int
    last_action: object
    same_values: int
    last_value: object
    num_values: int
    outside: float
    reward_range: tuple[float, float]
    learns: bool
    failure: Failure | None = None
    extremes: tuple[tuple[int, int, float], ...] = ()
    num_contexts: int = 0
    extreme_action: tuple[object, int, float] | None = None
    num_clipped: int = 0
    clipped: tuple[float, float] | None = None
    misfits: tuple[Misfit, ...] = ()
    collisions: tuple[tuple[str, float], ...] = ()
    change_error: str | None = None
    trip: Trip | None = None
    worse: tuple[tuple[str, Interval], ...] = ()
    warnings: tuple[Unlearnable, ...] = ()
    clips: bool = False
    evidence: Evidence = NOTHING
    enabled: Callable[[str], bool] = lambda _: True
    num_enabled: int = 0
    held: int | None = None
    loss: Loss | None = None
    drifts: tuple[tuple[str, float], ...] = ()
    challengers: tuple[ChallengerSeen, ...] = ()
