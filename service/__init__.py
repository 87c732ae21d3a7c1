"""The bandit service: FastAPI process, event store and trainer child."""

import os

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
# numpy's BLAS reads it when it is loaded, and would take every core: its threads then wait in
# loops of their own beside the event loop, and the last bits depend on their number.
os.environ.setdefault(BLAS_THREADS, "1")
