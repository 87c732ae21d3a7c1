"""Fixtures of all tests, see `tests/fixtures`, and the order of the files."""

import gc
import os
from pathlib import Path

import pytest

from service import BLAS_THREADS

# numpy's BLAS reads it when it is loaded, by a plugin below or by a test. With a thread per core,
# the workers wait for one another in loops; the service and its trainer have one thread as well.
os.environ[BLAS_THREADS] = "1"

pytest_plugins = [
    "tests.fixtures.matrices",
    "tests.fixtures.commands",
    "tests.fixtures.forks",
    "tests.fixtures.servers",
    "tests.fixtures.api",
    "tests.fixtures.nodes",
    "tests.fixtures.forked_servers",
    "tests.fixtures.system_packages",
    "tests.fixtures.postgres",
]
# The folders whose files take longest. They run first, so that all workers end together.
LONGEST = (
    "docker", "sharing", "recovery", "store", "workers", "tools", "serving", "observe", "docs",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders that take longest first; the order is otherwise unchanged."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


def pytest_collection() -> None:
    """Collect no garbage while thousands of tests are made, which all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: the tests, and torch."""
    gc.freeze()
    gc.enable()
