"""The visits and offers of a shop as users of Personalizer send them: mixed JSON features.

Objects open namespaces; several values of one field are an object of ones, since arrays have
numbers alone; a moment is binned to texts, as Personalizer's pages advise.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from simulators.environments.shop import OfferFeatures, Visit

Features = list[dict[str, Any]]
_DAY_S = 86_400.0


def context_of(visit: Visit) -> Features:
    """Return the context features of a visit."""
    moment = datetime.fromisoformat(visit["visited_at"])
    user, basket = visit["user"], visit.get("basket")
    return [
        {"user": {"member": user["member"], "age": user.get("age"), "country": visit["country"]}},
        {"visit": {"device": visit["device"], "source": visit["source"], "basket": basket}},
        {"time": {"hour": f"h{moment.hour}", "weekday": moment.strftime("%a")}},
        {"interests": dict.fromkeys(visit["interests"], 1)},
        {"query": dict.fromkeys(visit["query"].split(), 1)},
    ]


def action_of(offer: OfferFeatures, visit: Visit) -> Features:
    """Return the features of an offer at a visit."""
    age = datetime.fromisoformat(visit["visited_at"]) - datetime.fromisoformat(offer["launched"])
    days = round(age.total_seconds() / _DAY_S, 3)
    price = {"price": offer["price"], "min_basket": offer["min_basket"], "days": days}
    return [
        {"offer": {"kind": offer["kind"]} | price},
        {"tags": dict.fromkeys(offer["tags"], 1)},
    ]
