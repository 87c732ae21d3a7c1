"""One select: from a command to a stored decision."""
