"""A second process that follows a log while it grows; prints what it read as JSON.

Arguments: database, position to stop at. Prints "ready" once the first row can be read.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import LearnRow
from service.store.sqlite.reader import StoreReader


def main() -> None:
    path, stop = Path(sys.argv[1]), int(sys.argv[2])
    read: list[tuple[int, str, float]] = []
    heads = []
    deadline = time.monotonic() + 60
    with StoreReader(path) as reader:
        (record,) = reader.bandits()
        print("ready", flush=True)
        after = LogPosition(0)
        while after < stop and time.monotonic() < deadline:
            head = reader.head(record.key)
            heads.append(head)
            for group in reader.follow(record, after, head, 64):
                for row in group.rows:
                    assert isinstance(row, LearnRow)
                    read.append((row.position, row.decision_id, row.after))
            after = head
    print(json.dumps({"rows": read, "heads": heads}))


if __name__ == "__main__":
    main()
