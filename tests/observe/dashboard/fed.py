"""Traffic for the dashboard's tests."""

from __future__ import annotations

from typing import Any

from tests.fixtures.commands import bandexa
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll


class Fed:
    """Calls of one server."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.http = open_client(url, headers=headers)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self.http.close()

    def __enter__(self) -> Fed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send JSON and return the JSON answer."""
        response = self.http.request(method, path, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def shop(self, name: str = "shop", **spec: Any) -> None:
        """Create a linear bandit with three actions."""
        whole = {"policy": "linear_ts", "context": {"shape": [3]}, "action_dim": 2, "seed": 1}
        self.call("PUT", f"/bandits/{name}", whole | spec)
        features = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
        body: dict[str, Any] = {"ids": ["red", "green", "blue"]}
        if (whole | spec)["action_dim"]:
            body["features"] = features
        self.call("PUT", f"/bandits/{name}/actions", body)

    def visit(self, name: str, first: int, num: int, **more: Any) -> None:
        """Make decisions `name-first` and so on, and reward nine of ten of them."""
        for number in range(first, first + num):
            context = [number % 7 / 7, number % 5 / 5, 1.0]
            ask = {"bandit": name, "context": context, "decision_id": f"{name}-{number}"}
            made = self.call("POST", "/select", ask | more)
            if number % 10 != 9:
                value = float(made["action"]["id"] == ("red" if number % 2 else "green"))
                report: dict[str, Any] = {"decision_id": made["decision_id"], "reward": value}
                if more.get("k", 1) > 1:
                    report["action"] = made["action"]["id"]
                self.call("POST", "/reward", report)

    def counted(self, name: str, num: int) -> None:
        """Wait until the dashboard has counted this number of a bandit's decisions."""

        def there() -> bool:
            lines = self.call("GET", "/dashboard/overview")["bandits"]
            return any(one["name"] == name and one["decisions"] >= num for one in lines)

        poll(there, f"{num} decisions of {name}")


def simulate(url: str, *arguments: str) -> None:
    """Run a simulator against a server."""
    done = bandexa(
        "simulate", *arguments, "--url", url, "--live", "--seeds", 1, "--quiet", within_s=240
    )
    assert done.returncode == 0, done.stderr
