"""The event store in memory: see `store`."""
