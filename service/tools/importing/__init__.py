"""Logs of other services, and exports, as the decisions that a bandit can import."""
