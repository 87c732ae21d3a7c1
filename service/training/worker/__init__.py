"""What runs inside the trainer process."""
