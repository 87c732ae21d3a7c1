"""What an operator sees: counters, metrics, health, logs, dashboard."""
