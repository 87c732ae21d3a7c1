"""A small service with a uniform policy and the HTTP interface of Bandexa, run as a subprocess.

It accepts the options of `bandexa serve` that a private server passes, and options that make it
fail. Every choice is a hash of the decision id, so runs repeat. Training is due every 50 rewards.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


def fraction(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class Refusal(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Service:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bandits: dict[str, dict[str, Any]] = {}
        self.decisions: dict[str, str] = {}
        self.num_selects = 0

    def bandit(self, name: str) -> dict[str, Any]:
        if name not in self.bandits:
            raise Refusal(404, f"no bandit {name}")
        return self.bandits[name]

    def state(self, name: str) -> dict[str, Any]:
        bandit = self.bandit(name)
        return {
            "name": name,
            "uid": name,
            "spec": bandit["spec"],
            "num_actions": len(bandit["ids"]),
            "snapshot": bandit["snapshot"],
            "position": bandit["learned"],
            "num_learned": bandit["learned"],
            "train_due": False,
            "learning": {"findings": [], "join_rate": None, "reward_mean": None},
            "trainer": {"state": "idle", "phase": "idle", "pid": None, "rounds": 0},
        }

    def put_bandit(self, name: str, body: dict[str, Any]) -> tuple[int, object]:
        if body.get("posterior", {}).get("prior_var", 1.0) > 1e6:
            raise Refusal(422, "the spec is invalid")
        known = name in self.bandits
        if known and self.bandits[name]["spec"] != body:
            raise Refusal(409, "the spec differs")
        new = {"spec": body, "ids": [], "snapshot": 0, "learned": 0, "weights": name}
        self.bandits.setdefault(name, new)
        return (200 if known else 201), self.state(name)

    def delete_bandit(self, name: str) -> tuple[int, object]:
        self.bandit(name)
        del self.bandits[name]
        self.decisions = {d: b for d, b in self.decisions.items() if b != name}
        return 204, None

    def put_actions(self, name: str, body: dict[str, Any]) -> tuple[int, object]:
        ids = body["ids"] if "ids" in body else [row["id"] for row in body["actions"]]
        bandit = self.bandit(name)
        bandit["ids"] += [action for action in ids if action not in bandit["ids"]]
        return 200, {"num_actions": len(bandit["ids"]), "position": 0}

    def select(self, body: dict[str, Any]) -> tuple[int, object]:
        self.num_selects += 1
        if self.num_selects == self.options.die_after:
            print("the stand-in exits as requested", file=sys.stderr, flush=True)
            os._exit(9)
        bandit = self.bandit(body["bandit"])
        base64.b64decode(body["context"]["data"], validate=True)
        decision = body["decision_id"]
        if decision in self.decisions:
            raise Refusal(409, f"{decision} exists")
        self.decisions[decision] = body["bandit"]
        offered = body.get("candidates") or bandit["ids"]
        index = int(fraction(decision) * len(offered))
        return 200, {
            "decision_id": decision,
            "action": {"id": offered[index], "index": index},
            "score": None,
            "propensity": 1 / len(offered),
            "snapshot": bandit["snapshot"],
            "position": bandit["learned"],
        }

    def reward(self, body: dict[str, Any]) -> tuple[int, object]:
        if body["decision_id"] not in self.decisions:
            raise Refusal(404, "no such decision")
        bandit = self.bandit(self.decisions[body["decision_id"]])
        bandit["learned"] += 1
        return 200, {"status": "applied", "train_due": bandit["learned"] % 50 == 0}

    def reward_batch(self, body: dict[str, Any]) -> tuple[int, object]:
        items = []
        for item in body["items"]:
            try:
                code, answer = self.reward(item)
                items.append({"code": code, "answer": answer})
            except Refusal as refusal:
                items.append({"code": refusal.status, "error": {"detail": str(refusal)}})
        return 200, {"items": items}

    def train(self, name: str) -> tuple[int, object]:
        bandit = self.bandit(name)
        bandit["snapshot"] += 1
        position = bandit["learned"]
        return 200, {
            "status": "served",
            "snapshot": bandit["snapshot"],
            "position": position,
            "trained": True,
            "metrics": {},
        }

    def score(self, name: str, body: dict[str, Any]) -> tuple[int, object]:
        bandit = self.bandit(name)
        data = body["context"]["data"]
        rows = [
            {
                "id": action,
                "index": index,
                "mean": fraction(f"{bandit['weights']} {data} {action}"),
                "std": 1.0,
            }
            for index, action in enumerate(body.get("candidates") or bandit["ids"])
        ]
        served = {"snapshot": bandit["snapshot"], "position": bandit["learned"]}
        return 200, {"scores": rows, **served}

    def import_snapshot(self, name: str, content: bytes) -> tuple[int, object]:
        lost = "!" if self.options.lossy_import else ""
        self.bandit(name)["weights"] = content.decode() + lost
        return 200, {"snapshot": 1, "position": 0}

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, object]:
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        match (method, *parts):
            case ("GET", "readyz"):
                return 200, {"status": "ready"}
            case ("POST", "select"):
                return self.select(json.loads(content))
            case ("POST", "reward"):
                return self.reward(json.loads(content))
            case ("POST", "reward", "batch"):
                return self.reward_batch(json.loads(content))
            case ("PUT", "bandits", name):
                return self.put_bandit(name, json.loads(content))
            case ("GET", "bandits", name):
                return 200, self.state(name)
            case ("DELETE", "bandits", name):
                return self.delete_bandit(name)
            case ("PUT", "bandits", name, "actions"):
                return self.put_actions(name, json.loads(content))
            case ("POST", "bandits", name, "train"):
                return self.train(name)
            case ("POST", "bandits", name, "score"):
                return self.score(name, json.loads(content))
            case ("GET", "bandits", name, "snapshot"):
                return 200, self.bandit(name)["weights"].encode()
            case ("PUT", "bandits", name, "snapshot"):
                return self.import_snapshot(name, content)
        raise Refusal(404, f"no route {method} {path}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: a second one would wait for a delayed acknowledgement
    disable_nagle_algorithm = True
    service: Service

    def handle_method(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = self.service.answer(self.command, self.path, content)
        except Refusal as refusal:
            status = refusal.status
            answer = {"status": status, "title": "refused", "detail": str(refusal)}
        body = b"" if answer is None else answer
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = handle_method

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--durability", choices=["os", "commit"], required=True)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--replay-dir")
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--lossy-import", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--silent", action="store_true")
    options = parser.parse_args()
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Handler.service = Service(options)
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    if not options.silent:
        url = f"http://{options.host}:{server.server_port}"
        announcement = {"event": "listening", "url": url, "pid": os.getpid()}
        print(json.dumps(announcement), flush=True)
    print(json.dumps({**vars(options), "session": os.getsid(0)}), file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
