"""A web shop that asks which offer to show: FastAPI, `AsyncBanditClient`, `RewardQueue`.

    bandexa serve &
    uvicorn examples.shop:app --port 8000
    curl 'localhost:8000/offer?visits=3&basket=40&mobile=1'
    curl -X POST 'localhost:8000/bought/DECISION_ID?amount=25'

A visitor never waits more than 0.3 s for the service, and sees FALLBACK where it is away; what was
bought is delivered in the background.
"""

from __future__ import annotations

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
    "rewards": {"aggregate": "sum", "reward_window_s": 86_400.0, "default_reward": 0.0},
    "reward_range": [0.0, 100.0],
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the bandit, keep the clients open, and deliver what waits at the end."""
    async with AsyncBanditClient(URL) as bandits:
        await bandits.put_bandit("shop", BANDIT)
        await bandits.put_actions("shop", OFFERS)
        app.state.bandits = bandits
        with BanditClient(URL) as sender, RewardQueue(sender) as rewards:
            app.state.rewards = rewards
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/offer")
async def offer(request: Request, visits: int, basket: float, mobile: bool) -> dict[str, object]:
    """Choose an offer for a visitor; the page sends `decision_id` back when they buy."""
    chosen = await request.app.state.bandits.select(
        "shop",
        [visits / 10, basket / 100, float(mobile)],
        fallback=FALLBACK,
        within_s=0.3,
    )
    return {"offer": chosen.action.id, "decision_id": chosen.decision_id}


@app.post("/bought/{decision_id}", status_code=202)
async def bought(request: Request, decision_id: str, amount: float) -> None:
    """Report what an offer earned; several purchases add up."""
    try:
        request.app.state.rewards.put(decision_id, amount)
    except QueueFull:  # the service has been away for long; the sale counts all the same
        request.app.state.lost = getattr(request.app.state, "lost", 0) + 1
