"""The event store on PostgreSQL; the one room that imports its driver, asyncpg."""
