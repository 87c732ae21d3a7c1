"""A child that speaks the trainer's protocol and behaves as its configuration says.

Configuration: {"script": path}; the file there holds one behaviour per line, and each order takes
the first line off: "publish", "fail", "die", "linger" (publish once a file "go" is beside the
script). An empty file means publish. Orders are appended to "orders" beside it. "no-start" in the
configuration ends it at once, with "stubborn" it stays alive when its input closes. The first one
that finds a file "hang" beside the script removes it and never takes an order.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    configuration = json.loads(sys.stdin.readline())
    script = Path(configuration["script"])
    with script.with_name("starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    if script.with_name("no-start").exists():
        sys.exit(3)
    if script.with_name("hang").exists():
        script.with_name("hang").unlink()
        threading.Event().wait(60)
    report({"event": "ready", "pid": os.getpid()})
    if configuration.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait(60)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(lines,), daemon=True).start()
    while True:
        line = lines.get()
        order = json.loads(line)
        with script.with_name("orders").open("a") as orders:
            orders.write(line)
        if order["do"] == "round":
            obey(order, script)


def listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def obey(order: dict[str, Any], script: Path) -> None:
    behaviours = script.read_text().splitlines() if script.exists() else []
    behaviour, rest = (behaviours[0], behaviours[1:]) if behaviours else ("publish", [])
    script.write_text("\n".join(rest))
    if behaviour == "die":
        os._exit(9)
    if behaviour == "fail":
        report({"event": "failed", "error": "the rows are cursed"})
        return
    deadline = time.monotonic() + 20
    while behaviour == "linger" and not script.with_name("go").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    version = order["position"]
    report(
        {
            "event": "published",
            "uid": order["uid"],
            "version": version,
            "position": version,
            "metrics": {},
        }
    )


def report(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
