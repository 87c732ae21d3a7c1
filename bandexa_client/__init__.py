"""The public client: typed calls, retries, a fallback; httpx and the standard library alone."""

from bandexa_client.answers import (
    Action,
    ActionScore,
    BanditState,
    Catalogue,
    Finding,
    Learning,
    RewardStatus,
    Scores,
    Selection,
    SnapshotState,
    TrainerState,
    Training,
)
from bandexa_client.arrays import Array, array_body
from bandexa_client.client import AsyncBanditClient, BanditClient
from bandexa_client.errors import (
    BanditError,
    Conflict,
    Invalid,
    NotFound,
    Rejected,
    ServiceFailed,
    ServiceUnavailable,
)
from bandexa_client.requests import RewardReport, SelectRequest
from bandexa_client.retrying import NO_RETRY, Retry
from bandexa_client.reward_queue import QueueClosed, QueueFull, RewardQueue, Undelivered

__all__ = [
    "NO_RETRY",
    "Action",
    "ActionScore",
    "Array",
    "AsyncBanditClient",
    "BanditClient",
    "BanditError",
    "BanditState",
    "Catalogue",
    "Conflict",
    "Finding",
    "Invalid",
    "Learning",
    "NotFound",
    "QueueClosed",
    "QueueFull",
    "Rejected",
    "Retry",
    "RewardQueue",
    "RewardReport",
    "RewardStatus",
    "Scores",
    "SelectRequest",
    "Selection",
    "ServiceFailed",
    "ServiceUnavailable",
    "SnapshotState",
    "TrainerState",
    "Training",
    "Undelivered",
    "array_body",
]
