"""The mark of fields that may be missing in an answer."""

SENT = {"sent": True}
"""Marks a field with a default that the service sends, if it is new enough."""
