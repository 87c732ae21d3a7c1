"""What an export of a million decisions costs: selects meanwhile, memory, and time.

Decisions go through the store itself, with rewards for a thousand of them. Selects come at fixed
times, in windows that take turns: alone; beside a busy process, which computes in memory and opens
no file; and beside an export, over HTTP from the server that is measured or of its data directory.
The busy process and the exports run with `nice`, as docs/evaluation.md says. A machine with few
cores slows everything beside any computing: the busy process shows that share, which no export
could avoid. With `--apart` the server and its load have all cores but the last one, which the busy
process and the exports have alone: that stands for a machine with a core to spare. The ratios of
99th percentiles have intervals over the turns. Then each way exports everything once, and the
largest resident memory of its process is read.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from benchmarks.dashboard import NAME, fill, p99, prepare, served
from benchmarks.intervals import ratio_of_pairs
from benchmarks.processes import wait_idle
from benchmarks.report import Target, arguments, report
from benchmarks.server import ROOT, Server, code_of

TARGETS = {
    "p99_http_over_busy": Target(1.1, unit="geometric mean of turns"),
    "p99_files_over_busy": Target(1.1, unit="geometric mean of turns"),
    "http_mib": Target(256.0, unit="MiB of the exporting process, at most"),
    "files_mib": Target(256.0, unit="MiB of the exporting process, at most"),
    "server_mib": Target(64.0, unit="MiB more of the server, at most"),
}
LEARNED = 1000
DECISIONS, QUICK = 1_000_000, 100_000
START_S = 2.0  # until an exporting process reads
LOOKS_S = 0.05
WAYS = ("http", "files")
# Encodes and decodes rows as an export does, without a store, a server or a file.
BUSY = """
import json
row = {"context": [n / 7 for n in range(40)], "action": "a17", "propensity": 0.25}
while True:
    json.loads(json.dumps(row))
"""


class Exporting:
    """A process that exports, again and again or once.

    Args:
        way: Over HTTP, or of the data directory's files.
        url: The server's address.
        data_dir: Its data directory.
        folder: Where the file goes.
        before: The command that gives it its priority, and its core.
    """

    def __init__(
        self, way: str, url: str, data_dir: Path, folder: Path, before: Sequence[str]
    ) -> None:
        self._file = folder / f"{way}.jsonl"
        source = ["--url", url] if way == "http" else ["--data-dir", str(data_dir)]
        self._command = [
            *before, sys.executable, "-m", "service.cli", "export", NAME, str(self._file),
            "--quiet", *source,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin an export."""
        self._file.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=code_of(ROOT))

    def repeat(self, ending: threading.Event) -> None:
        """Export again and again, until an event is set; then end where it is."""
        while not ending.is_set():
            self.start()
            assert self._process is not None
            while self._process.poll() is None and not ending.wait(0.05):
                pass
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for part in self._file.parent.glob(".*.part"):
            part.unlink()

    def whole(self) -> tuple[float, float]:
        """Export everything; returns seconds, and the largest resident memory in MiB."""
        begun = time.perf_counter()
        self.start()
        assert self._process is not None
        largest = 0.0
        while self._process.poll() is None:
            # Not what `wait4` says: that counts the process it was forked from as well.
            largest = max(largest, resident_mib(self._process.pid) or 0.0)
            time.sleep(LOOKS_S)
        if self._process.returncode:
            raise RuntimeError(f"the export ended with {self._process.returncode}")
        took = time.perf_counter() - begun
        self._file.unlink()
        return took, largest


@contextmanager
def busy(before: Sequence[str]) -> Iterator[None]:
    """Compute in a process of its own until the exit, with the niceness of an export."""
    process = subprocess.Popen([*before, sys.executable, "-c", BUSY])
    try:
        time.sleep(START_S)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def beside(exporting: Exporting) -> Iterator[None]:
    """Export until the exit."""
    ending = threading.Event()
    thread = threading.Thread(target=exporting.repeat, args=(ending,))
    thread.start()
    try:
        time.sleep(START_S)
        yield
    finally:
        ending.set()
        thread.join()


def resident_mib(pid: int) -> float | None:
    """Return the largest resident memory of a process so far; None: it has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [each for each in status.splitlines() if each.startswith("VmHWM:")]
    return int(found[0].split()[1]) / 1024 if found else None


def on_cores(apart: bool) -> list[str]:
    """Return the command before an export; with `apart` leave it a core that nothing else has.

    `nice` and `taskset` become the process that they start.
    """
    if not apart:
        return ["nice"]
    *others, last = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)  # the server, which is started later, has them as well
    return ["nice", "taskset", "--cpu-list", str(last)]


def measure(
    folder: Path, num: int, turns: int, seconds: float, rate: float, prefix: Sequence[str],
    log: Callable[[str], None],
) -> dict[str, float]:  # fmt: skip
    """Return the figures."""
    data_dir = folder / "data"
    with served(data_dir) as http:
        prepare(http, LEARNED)
    begun = time.perf_counter()
    fill(data_dir / "bandexa.db", num, LEARNED)
    log(f"{num:,} decisions put into the store in {time.perf_counter() - begun:.0f} s")
    results: dict[str, float] = {"decisions": num, "turns": turns}
    with Server(data_dir) as server:
        url, pid = server.address, server.pid
        wait_idle(pid)  # its dashboard counts the decisions, which it would have done as they came
        ways = {way: Exporting(way, url, data_dir, folder, prefix) for way in WAYS}
        before = resident_mib(pid) or 0.0
        conditions: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "alone": nullcontext,
            "busy": partial(busy, prefix),
            **{way: partial(beside, exporting) for way, exporting in ways.items()},
        }
        seen: dict[str, list[float]] = {name: [] for name in conditions}
        for turn in range(turns):
            order = list(conditions)
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                with conditions[name]():
                    seen[name].append(p99(url, seconds, rate))
                log(f"{name}: p99 {seen[name][-1]:.2f} ms")
        results |= {f"p99_{name}_ms": statistics.median(all_) for name, all_ in seen.items()}
        for name, base in (*((way, "busy") for way in WAYS), *((n, "alone") for n in seen)):
            if name != base:
                ratio = ratio_of_pairs(seen[name], seen[base])
                key = f"p99_{name}_over_{base}"
                results |= {key: ratio.mean, f"{key}, low": ratio.low, f"{key}, high": ratio.high}
        for way, exporting in ways.items():
            took, results[f"{way}_mib"] = exporting.whole()
            results[f"{way}_s"] = took
            log(f"{way}: everything in {took:.0f} s, {num / took:,.0f} decisions a second")
        results["server_mib"] = (resident_mib(pid) or 0.0) - before
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("export", __doc__)
    parser.add_argument("--decisions", type=int, help=f"default {DECISIONS}")
    parser.add_argument("--turns", type=int, help="default 8, with --quick 3")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one window")
    parser.add_argument("--rate", type=float, default=150.0, help="selects per second")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} decisions")
    parser.add_argument("--apart", action="store_true", help="exports have a core of their own")
    given = parser.parse_args(argv)
    before = on_cores(given.apart)
    num = given.decisions or (QUICK if given.quick else DECISIONS)
    with tempfile.TemporaryDirectory(prefix="bandexa-export-") as folder:
        results = measure(
            Path(folder), num, given.turns or (3 if given.quick else 8), given.seconds, given.rate,
            before, lambda text: print(text, flush=True),
        )  # fmt: skip
    return report("export", results, given.json, targets=TARGETS)
