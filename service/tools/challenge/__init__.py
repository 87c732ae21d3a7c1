"""Compares the challengers of a bandit with what is served, and promotes them by their rules."""
