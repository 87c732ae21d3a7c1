"""Rank and Reward by an SDK of Personalizer, and Vowpal Wabbit on the same JSON, on one stream."""
