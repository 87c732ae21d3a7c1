"""Measurements the documentation quotes; each module is a command with a table and JSON."""
