"""Fixtures for all tests: see `tests/fixtures`."""

pytest_plugins = [
    "tests.fixtures.commands",
    "tests.fixtures.servers",
    "tests.fixtures.api",
    "tests.fixtures.nodes",
    "tests.fixtures.system_packages",
]
