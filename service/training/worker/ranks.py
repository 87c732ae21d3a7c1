"""The ranks of the trainer: the processes that share its rounds, and how they come together.

A trainer with `trainer_processes = N` is rank 0. It starts the others when a round first trains an
encoder, as its children, and they end with it. Each round, it tells them what the round covers;
all of them carry it out, and rank 0 alone publishes. Where a rank ends within a round, so does the
trainer: its supervisor starts it and orders the round again. Under `torchrun` the processes are
there already, and its agent starts all of them again.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bandexa_core.ids import BanditUid, SnapshotVersion
from bandexa_core.training.ranks import ALONE, Ranks
from service.training.messages import Configuration, ForgetOrder, RoundOrder

if TYPE_CHECKING:
    from bandexa_core.training.process_ranks import ProcessRanks

log = logging.getLogger(__name__)
FAILED = 3  # exit status of a rank whose round raised, as it does in the others
LOST = 4  # of a trainer that has lost a rank
_GRACE_S = 5.0  # for a collective call to notice that a rank has ended
_MEETING, _RANK = "meeting-", "rank-"
OF_RANKS = (_MEETING, _RANK)  # how folders of ranks begin, beside those of bandits
_IDLE_S = timedelta(days=365)  # between rounds, ranks wait without a limit


class RankLost(Exception):
    """Another rank has ended within a round: the trainer has to be started again."""


class SharedRound(msgspec.Struct, frozen=True, tag_field="do", tag="round"):
    """A round that all ranks carry out.

    Attributes:
        order: What it covers.
        parent: The snapshot that rank 0 starts from; None: it learns all rows again.
    """

    order: RoundOrder
    parent: SnapshotVersion | None


class PeerConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that a rank reads which the trainer has started."""

    trainer: Configuration
    rank: int
    meeting: str


_Message = SharedRound | ForgetOrder
_MESSAGES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Message)


class RoundRanks(Protocol):
    """The ranks as the trainer uses them."""

    @property
    def rank(self) -> int:
        """The number of this process; rank 0 publishes."""

    @property
    def size(self) -> int:
        """How many processes share a round."""

    def begin(self, order: RoundOrder, parent: SnapshotVersion | None) -> Ranks:
        """Bring the ranks together for a round that trains an encoder."""

    def finished(self) -> None:
        """Note that this round needs the other ranks no more."""

    def forget(self, uid: BanditUid) -> None:
        """Have the other ranks remove the files of a deleted bandit."""

    def failed(self) -> None:
        """End what was begun, after an exception.

        Raises:
            RankLost: Another rank had ended.
        """


class NoOtherRanks:
    """A trainer of one process."""

    rank = 0
    size = 1

    def begin(self, order: RoundOrder, parent: SnapshotVersion | None) -> Ranks:
        """See `RoundRanks.begin`."""
        return ALONE

    def finished(self) -> None:
        """See `RoundRanks.finished`."""

    def forget(self, uid: BanditUid) -> None:
        """See `RoundRanks.forget`."""

    def failed(self) -> None:
        """See `RoundRanks.failed`."""


class _Group:
    """The process group: messages from rank 0 to the others, and what a round uses."""

    def __init__(self, local_rank: int) -> None:
        from torch import distributed

        from bandexa_core.training.process_ranks import ProcessRanks

        self.ranks: ProcessRanks = ProcessRanks(local_rank)
        self._messages = distributed.new_group(backend="gloo", timeout=_IDLE_S)

    def tell(self, message: msgspec.Struct) -> None:
        """Send a message from rank 0 to all others."""
        import torch
        from torch import distributed

        data = torch.frombuffer(bytearray(msgspec.json.encode(message)), dtype=torch.uint8)
        distributed.broadcast(torch.tensor(len(data)), 0, self._messages)
        distributed.broadcast(data, 0, self._messages)

    def told(self) -> _Message:
        """Wait for the next message of rank 0."""
        import torch
        from torch import distributed

        size = torch.tensor(0)
        distributed.broadcast(size, 0, self._messages)
        data = torch.empty(int(size), dtype=torch.uint8)
        distributed.broadcast(data, 0, self._messages)
        message: _Message = _MESSAGES.decode(data.numpy().tobytes())
        return message


class StartedRanks:
    """Rank 0 of a trainer that starts the other ranks on its machine.

    Args:
        configuration: The trainer's.
    """

    rank = 0

    def __init__(self, configuration: Configuration) -> None:
        self.size = configuration.processes
        self._configuration = configuration
        self._peers: list[subprocess.Popen[bytes]] = []
        self._group: _Group | None = None
        self._begun = False
        self._ending = False

    def begin(self, order: RoundOrder, parent: SnapshotVersion | None) -> Ranks:
        """See `RoundRanks.begin`."""
        self._begun = True
        if self._group is None:
            self._group = self._start()
        self._group.tell(SharedRound(order, parent))
        return self._group.ranks

    def finished(self) -> None:
        """See `RoundRanks.finished`."""
        self._begun = False

    def forget(self, uid: BanditUid) -> None:
        """See `RoundRanks.forget`."""
        if self._group is not None:
            self._group.tell(ForgetOrder(uid))
            return
        for rank in range(1, self.size):
            shutil.rmtree(replay_root(self._configuration, rank) / uid, ignore_errors=True)

    def failed(self) -> None:
        """See `RoundRanks.failed`."""
        if not self._begun:
            return
        self._ending = True
        lost = self._lost(time.monotonic() + _GRACE_S)
        for peer in self._peers:
            peer.kill()
            peer.wait()
        if lost is not None:
            raise RankLost(lost)
        if self._group is not None:
            from torch import distributed

            distributed.destroy_process_group()
        self._peers, self._group = [], None
        self._begun = self._ending = False

    def _lost(self, deadline: float) -> str | None:
        """Return which rank has ended by itself; where all go on, wait for it a little.

        A rank whose round raised is not lost: what raised there raises here, or is its consequence.
        """
        while True:
            codes = [peer.poll() for peer in self._peers]
            for rank, code in enumerate(codes, 1):
                if code not in (None, FAILED):
                    return f"rank {rank} of {self.size} ended with {code}"
            if FAILED in codes or time.monotonic() > deadline:
                return None
            time.sleep(0.02)

    def _start(self) -> _Group:
        from torch import distributed

        from bandexa_core.training.process_ranks import file_store

        # The folder is ours alone, and gloo listens on loopback: nobody else can join.
        root = replay_root(self._configuration, 0)
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f"{_MEETING}*"):  # of a trainer that has ended
            shutil.rmtree(left, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix=_MEETING, dir=root)
        meeting = str(Path(folder) / "meeting")
        _stay_on_this_machine()
        for rank in range(1, self.size):
            peer = subprocess.Popen(
                [sys.executable, "-P", "-m", "service.training.worker.peer"],
                stdin=subprocess.PIPE, stdout=2,
            )  # fmt: skip
            self._peers.append(peer)
            assert peer.stdin is not None
            own = PeerConfiguration(trainer=self._configuration, rank=rank, meeting=meeting)
            peer.stdin.write(msgspec.json.encode(own) + b"\n")
            peer.stdin.flush()  # and it stays open: they end when it closes
            threading.Thread(
                target=self._watch, args=(rank, peer), name=f"rank-{rank}", daemon=True
            ).start()
        # The file stays: the others may still read it, and nccl does when it is first used.
        store = file_store(meeting, self.size)
        distributed.init_process_group(backend(), store=store, rank=0, world_size=self.size)
        return _Group(local_rank=0)

    def _watch(self, rank: int, peer: subprocess.Popen[bytes]) -> None:
        """End this process after a rank has ended, where no call notices it."""
        code = peer.wait()
        if self._ending:
            return
        log.error("rank %d of %d ended with %d", rank, self.size, code)
        time.sleep(2 * _GRACE_S)
        if not self._ending:
            os._exit(LOST)


class JoinedRanks:
    """A rank of a trainer that `torchrun` has started, or one that a `StartedRanks` has.

    The process group exists. Rank 0 goes on as a trainer does; the others follow it by `orders`.
    """

    def __init__(self, configuration: Configuration, local_rank: int) -> None:
        self._group = _Group(local_rank)
        self._configuration = configuration
        self._shared: SharedRound | None = None
        self._has_begun = False
        self.rank = self._group.ranks.rank
        self.size = self._group.ranks.size

    def next_order(self) -> RoundOrder | ForgetOrder:
        """Wait until rank 0 names the next round, or a bandit that was deleted."""
        message = self._group.told()
        if isinstance(message, ForgetOrder):
            return message
        self._shared = message
        return message.order

    def begin(self, order: RoundOrder, parent: SnapshotVersion | None) -> Ranks:
        """See `RoundRanks.begin`.

        Raises:
            RankLost: This rank would start from another snapshot than rank 0.
        """
        if self.rank == 0:
            self._group.tell(SharedRound(order, parent))
        elif self._shared != SharedRound(order, parent):
            raise RankLost(f"rank {self.rank} starts from {parent}, rank 0 from {self._shared}")
        self._shared = None
        self._has_begun = True
        return self._group.ranks

    def finished(self) -> None:
        """See `RoundRanks.finished`."""
        self._has_begun = False

    def check_begun(self) -> None:
        """Raise RankLost where a round ended in this rank before it came to its training."""
        if self._shared is not None:
            raise RankLost(f"rank {self.rank} did not come to train in {self._shared.order}")

    def forget(self, uid: BanditUid) -> None:
        """See `RoundRanks.forget`."""
        if self.rank == 0:
            self._group.tell(ForgetOrder(uid))

    def failed(self) -> None:
        """See `RoundRanks.failed`: no rank knows what the others did, so all start again.

        A round that failed before it began has no other rank.
        """
        if not self._has_begun:
            return
        raise RankLost(f"rank {self.rank} of {self.size} failed; all ranks have to start again")


def replay_root(configuration: Configuration, rank: int) -> Path:
    """Return the folder of a rank's replays: one process at a time uses a replay."""
    root = Path(configuration.replays)
    return root if rank == 0 else root / f"{_RANK}{rank}"


def backend() -> str:
    """Return the backends of a process group: gloo on the CPU, and nccl where there are GPUs."""
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def torchrun_ranks(configuration: Configuration, environment: Mapping[str, str]) -> RoundRanks:
    """Return the ranks of a process, which `torchrun` may have started.

    Without its variables (or with one process) the trainer is alone. Otherwise the processes meet
    as torchrun says, at MASTER_ADDR, on one machine or several.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        return NoOtherRanks()
    from torch import distributed

    distributed.init_process_group(backend(), init_method="env://")
    return JoinedRanks(configuration, int(environment["LOCAL_RANK"]))


def met_ranks(own: PeerConfiguration) -> JoinedRanks:
    """Return the ranks of a process that a `StartedRanks` has started."""
    from torch import distributed

    from bandexa_core.training.process_ranks import file_store

    _stay_on_this_machine()
    size = own.trainer.processes
    store = file_store(own.meeting, size)
    distributed.init_process_group(backend(), store=store, rank=own.rank, world_size=size)
    return JoinedRanks(own.trainer, own.rank)


def _stay_on_this_machine() -> None:
    """Have gloo listen on loopback alone."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
