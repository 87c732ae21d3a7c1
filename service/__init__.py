"""The bandit service: FastAPI process, event store and trainer child."""
