"""What every store in a database has in common: formats, operations and readers, in SQL."""
