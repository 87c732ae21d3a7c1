"""`python -m benchmarks NAME [options]`: runs one measurement or one proof of this checkout.

Without a name it prints the list. Every command prints a table, takes `--json FILE` for the
figures and explains its options with `--help`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
TIMINGS = {
    "all": "every measurement with a target, and one table of the targets",
    "http": "selects, rewards and batches per second over two ceilings of HTTP",
    "core": "select + update over the textbook method, log rows in groups over one by one",
    "decisions": "decisions in process, alone and 16 together; over those of another checkout",
    "named": "selects with named features over selects with the equal vector, in process and HTTP",
    "rebuild": "rebuild of a posterior over one matrix product and one read of its rows",
    "catalog": "large catalogues: one draw over all actions, candidates by id, upload",
    "catalog_changes": "start, explanation and swap after an hour of catalogue changes over none",
    "memory": "resident memory of an idle bandit",
    "spread": "CPU time of a select where 100 bandits have the traffic, over one bandit's",
    "event_loop": "callbacks of more than 5 ms on the event loop, in the loads of the timings",
    "swap": "longest stall of the event loop while a model is swapped",
    "interference": "tail latency of selects while another bandit trains",
    "simulated": "a simulation over HTTP over the same simulation in process",
    "images": "a ResNet encoder: candidates over one pass, training with cached activations",
    "gpu": "training of ResNets from disk on a GPU: rows per second, how busy it is, precisions",
    "replay": "random batches of the disk replay over other ways to read the same bytes",
    "regret": "the regret table: every problem, every policy, means over seeds",
    "outliers": "regret with extreme inputs over that of the same runs without them",
    "changed_regret": "regret after a change of configuration over that of it from the start",
    "wrong_values": "how often the best action is chosen behind one wrong reward or context",
    "peers": "our policies and other bandit libraries on the same streams, tables and scenes",
    "personalizer": "regret of Rank and Reward beside that of Vowpal Wabbit, as Personalizer's",
    "slots": "two laws of filling slots: regret, and what their logs are worth",
    "compare": "CPU time of this checkout over another one: requests and core, with intervals",
    "startup": "CPU time and memory of a server's start over those of another checkout",
    "scale": "stores on PostgreSQL: over a file, many servers over one, barriers, followers",
    "storage": "bytes of decisions and rewards in the database, by table, and in its log",
    "sizing": "bytes on disk of a decision, by what is sent with it, and how long a disk lasts",
    "erasing": "longest wait of a write while a person is erased, and while the file shrinks",
    "export": "selects beside an export of a million decisions over selects alone, and its memory",
    "dashboard": "the dashboard over a million decisions, and selects beside open pages",
}
PROOFS = {
    "faults": "acknowledged decisions and rewards survive SIGKILL at every stage",
    "power_loss": "acknowledged decisions and rewards survive a power loss at every kind of write",
    "damage": "damaged files are refused or repaired, and nothing is served wrongly",
    "bodies": "no body holds the event loop, or takes many times its size in memory",
    "evaluation": "intervals of values and lifts hold at any time, and how wide they are",
    "lift": "the counted lift of a learning bandit over its control covers the truth",
    "challengers": "a better challenger is promoted, an equal one is not, undoing restores",
    "clocks": "a wall clock that jumps removes, closes and forgets nothing early",
    "hostile": "no request breaks the server, and a rejected request changes nothing",
    "hostile_objects": "nothing in place of named features breaks the server",
    "hostile_personalizer": "nothing sent to Personalizer's paths breaks the server",
    "changes": "configurations change under load and across kills, rewards count once",
    "imports": "no changed export stops a bandit, a start or another bandit",
    "many_bandits": "ten thousand bandits: no stall, an idle server, its start, memory and files",
    "slow_peers": "slow and endless clients lock nobody out, and every descriptor comes back",
    "client": "rewards that a client accepted count once, however its processes fork and end",
    "workers": "processes of a server of several are killed and nothing is lost; its rate",
    "database": "servers of one database are killed, paused, failed over: nothing is lost",
    "soak": "memory, descriptors and answers stay level under long load",
}
# Their own arithmetic and that of their servers uses one thread, so that ratios compare like
# with like. The others take the threads that a user's process takes.
_ON_ONE_THREAD = {
    "http", "core", "decisions", "rebuild", "catalog", "memory", "simulated", "images", "compare",
    "startup", "peers", "personalizer", "spread", "event_loop", "named",
}  # fmt: skip


def _listing() -> str:
    lines = ["usage: python -m benchmarks NAME [options]"]
    for title, commands in (("measurements", TIMINGS), ("proofs", PROOFS)):
        lines += ["", f"{title}:", *(f"  {name:<22}{text}" for name, text in commands.items())]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the named command and return its exit status; 2 for an unknown name."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_listing())
        return 0
    name, options = argv[0], argv[1:]
    if name not in TIMINGS and name not in PROOFS:
        print(f"there is no benchmark {name!r}\n\n{_listing()}", file=sys.stderr)
        return 2
    if name in _ON_ONE_THREAD:
        os.environ.update(ONE_THREAD)  # before numpy and torch read it
    package = "benchmarks.proofs" if name in PROOFS else "benchmarks"
    status: int = importlib.import_module(f"{package}.{name}").main(options)
    return status


if __name__ == "__main__":
    # A terminated benchmark ends its servers, as one that Ctrl-C interrupts does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
