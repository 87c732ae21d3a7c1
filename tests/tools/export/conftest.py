"""Rows are exported from every store."""

from tests.store.contract.conftest import client

__all__ = ["client"]
