"""Neural-Linear Thompson sampling without HTTP: posteriors, encoders, policies, replay, snapshots.

One idea holds it together: a served model is a pure function of (snapshot, log position).
See `model.load_model`, the one code path that start, swap and verification share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Read `__version__` from the installed package when it is first needed."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import metadata

        try:
            version = metadata.version("bandexa")
        except metadata.PackageNotFoundError:
            version = "0.0.0+unknown"  # a source tree that was never installed
        globals()[name] = version
        return version
