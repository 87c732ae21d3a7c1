"""A web shop that learns which offer to show: FastAPI, `AsyncBanditClient`, `RewardQueue`.

Start a server, then the shop, from the root of a checkout:

    bandexa serve &
    uvicorn examples.shop:app --port 8000
    curl 'localhost:8000/offer?visits=3&basket=40&mobile=1'
    curl -X POST 'localhost:8000/bought/DECISION_ID?amount=25'

The service must run when the shop starts. After that, a visitor waits at most 0.3 s for a decision
and sees FALLBACK when there is none. Sales are reported in the background. For a server with API
keys, give both clients `api_key=`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from bandexa_client import AsyncBanditClient, BanditClient, QueueFull, RewardQueue

URL = os.environ.get("SHOP_BANDIT_URL", "http://127.0.0.1:8080")
OFFERS = ["ten-percent", "free-shipping", "nothing"]
FALLBACK = "nothing"
BANDIT = {
    "policy": "neural_linear_ts",
    "context": {"shape": [3]},
    "encoder": {"name": "mlp", "params": {"heads": "per_action"}},
    # The value of a decision is the sum of its sales within half an hour, or 0 without a sale. It
    # is learned when that time is over.
    "rewards": {"aggregate": "sum", "reward_window_s": 1800.0, "default_reward": 0.0},
    "reward_range": [0.0, 100.0],
}

log = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the bandit, open the clients, and deliver the waiting rewards at the end."""
    async with AsyncBanditClient(URL) as bandits:
        await bandits.put_bandit("webshop", BANDIT)
        await bandits.put_actions("webshop", OFFERS)
        app.state.bandits = bandits
        with BanditClient(URL) as sender, RewardQueue(sender) as rewards:
            app.state.rewards = rewards
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/offer")
async def offer(request: Request, visits: int, basket: float, mobile: bool) -> dict[str, object]:
    """Choose an offer for a visitor; a sale is reported with the returned `decision_id`."""
    bandits: AsyncBanditClient = request.app.state.bandits
    context = [visits / 10, basket / 100, float(mobile)]
    chosen = await bandits.select("webshop", context, fallback=FALLBACK, within_s=0.3)
    return {"offer": chosen.action.id, "decision_id": chosen.decision_id}


@app.post("/bought/{decision_id}", status_code=202)
async def bought(request: Request, decision_id: str, amount: float) -> None:
    """Report a sale; several sales of one decision add up."""
    rewards: RewardQueue = request.app.state.rewards
    try:
        rewards.put(decision_id, amount)
    except QueueFull:  # the service has been away for long; the sale itself must not fail
        log.warning("a sale of decision %s is not reported", decision_id)
