"""The event store on SQLite; the one room that speaks SQL to the event store."""
