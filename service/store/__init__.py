"""The event store: the source of truth; everything else is derived from it."""
