"""The rows of a bandit's log, and what folds them: catalogue, forgetting."""
