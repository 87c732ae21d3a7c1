"""The trainer process: what it is ordered, how it is supervised, what it does."""
