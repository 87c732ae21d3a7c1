"""What other policies would have earned, by the exported log of a bandit."""
