"""What is done to a data directory: verify, backup, doctor."""
