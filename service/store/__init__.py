"""The event store: the truth that everything else is derived from."""

from service.store.codec import (
    BanditRecord,
    ChosenAction,
    DecisionRecord,
    RewardReport,
    RewardStatus,
    RoundRecord,
    StoredAnswer,
)
from service.store.protocol import (
    Activation,
    ActivationStatus,
    Closed,
    EventStore,
    Learned,
    RewardOutcome,
)
from service.store.reader import StoreReader
from service.store.schema import Durability
from service.store.sqlite import SqliteStore

__all__ = [
    "Activation",
    "ActivationStatus",
    "BanditRecord",
    "ChosenAction",
    "Closed",
    "DecisionRecord",
    "Durability",
    "EventStore",
    "Learned",
    "RewardOutcome",
    "RewardReport",
    "RewardStatus",
    "RoundRecord",
    "SqliteStore",
    "StoreReader",
    "StoredAnswer",
]
