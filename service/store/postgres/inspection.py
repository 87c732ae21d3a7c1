"""Inspects a database for `bandexa doctor`; changes nothing."""

from __future__ import annotations

from contextlib import closing

from service.store.address import PostgresUrl
from service.store.inspected import Inspected
from service.store.postgres.connection import ReadConnection
from service.store.postgres.schema import LOCK, OLDEST_VERSION, UNWRITABLE, schema_version

_SERVER = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  pg_is_in_recovery(), has_schema_privilege(current_schema(), 'CREATE'),
  EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = ? AND objid = current_schema()::regnamespace::oid),
  current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off',
  (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
  (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 FROM pg_stat_activity
    WHERE state <> 'idle' AND pid <> pg_backend_pid()),
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
  current_setting('max_connections')::int
"""
_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace::oid
"""

_SERVERS = """
SELECT name, holder FROM leases WHERE (name = 'keeper' OR name LIKE 'server/%')
  AND until > clock_timestamp() ORDER BY name
"""


def inspected(url: PostgresUrl) -> Inspected:
    """Return the state of a database.

    Raises:
        StoreUnreadable: It cannot be reached.
    """
    schema = schema_version(url)
    with closing(ReadConnection(url)) as db:
        row = db.execute(_SERVER, (LOCK,)).fetchone()
        number, version, standby, may_create, in_use, syncs, num_sync, longest, used, most = row
        lacking = db.execute(UNWRITABLE).fetchone() if schema else None
        (num_bytes,) = db.execute(_BYTES).fetchone()
        (has_leases,) = db.execute("SELECT to_regclass('leases') IS NOT NULL").fetchone()
        servers = db.execute(_SERVERS).fetchall() if has_leases else []
    return Inspected(
        f"PostgreSQL {version}", number >= OLDEST_VERSION * 10_000, schema, standby,
        bool(may_create), None if lacking is None else lacking[0], in_use, syncs, num_sync, longest,
        (used, most), num_bytes, [(name, holder) for name, holder in servers],
    )  # fmt: skip
