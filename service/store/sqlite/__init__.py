"""The event store on SQLite; the one room that imports its driver."""
