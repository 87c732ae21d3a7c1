"""Calls about training and the snapshots that it makes."""

from __future__ import annotations

from bandexa_client.answers.snapshots import Snapshots, SnapshotState, Training
from bandexa_client.call import Call, path, reads
from bandexa_client.calls.sending import Sending
from bandexa_client.sharing import shared


class SnapshotCalls(Sending):
    """Calls about training and the snapshots that it makes."""

    @shared
    async def train(self, bandit: str, *, wait: bool = True) -> Training:
        """Train now; with `wait` return once the new snapshot is served, otherwise at once."""
        where = path(bandit, "train") + ("?wait=true" if wait else "?wait=false")
        return await self._do(Call("POST", where, reads(Training), repeatable=False, slow=wait))

    @shared
    async def export_snapshot(self, bandit: str) -> bytes:
        """Return the served snapshot, for `import_snapshot`."""
        where = path(bandit, "snapshot")
        return await self._do(Call("GET", where, lambda response: response.content, slow=True))

    @shared
    async def import_snapshot(self, bandit: str, snapshot: bytes) -> SnapshotState:
        """Serve an exported snapshot from a bandit of equal spec and actions."""
        call = Call(
            "PUT", path(bandit, "snapshot"), reads(SnapshotState), snapshot, repeatable=False,
            slow=True,
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def list_snapshots(self, bandit: str) -> Snapshots:
        """Return the snapshots on the server's disk; `rollback` takes any of them."""
        return await self._do(Call("GET", path(bandit, "snapshots"), reads(Snapshots)))

    @shared
    async def rollback(self, bandit: str, version: int) -> SnapshotState:
        """Serve an older snapshot from here on: what was learned after it leaves the model."""
        call = Call(
            "POST", path(bandit, "rollback"), reads(SnapshotState), {"version": version},
            repeatable=False, slow=True,
        )  # fmt: skip
        return await self._do(call)

    @shared
    async def recover(self, bandit: str) -> SnapshotState:
        """Recover a failed bandit now; one that has not failed is unchanged.

        Raises:
            ServiceUnavailable: It cannot be recovered; it is tried again later.
        """
        return await self._do(
            Call("POST", path(bandit, "recover"), reads(SnapshotState), repeatable=False, slow=True)
        )
