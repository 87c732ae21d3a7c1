"""The public client: typed calls, retries, a fallback; httpx and the standard library alone."""

from bandexa_client.async_client import AsyncBanditClient
from bandexa_client.client import BanditClient
from bandexa_client.retrying import NO_RETRY, Retry
from bandexa_client.reward_queue import QueueClosed, QueueFull, RewardQueue, Undelivered
from bandexa_client.wire import (
    Action,
    ActionScore,
    Array,
    BanditError,
    BanditState,
    Catalogue,
    Conflict,
    Invalid,
    NotFound,
    Rejected,
    RewardReport,
    RewardStatus,
    Scores,
    Selection,
    SelectRequest,
    ServiceFailed,
    ServiceUnavailable,
    SnapshotState,
    Training,
    array_body,
)

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
    "Invalid",
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
    "Training",
    "Undelivered",
    "array_body",
]
