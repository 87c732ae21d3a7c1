"""The log of a bandit: its rows, and the pure functions that fold them into values."""
