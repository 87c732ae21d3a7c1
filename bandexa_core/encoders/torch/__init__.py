"""Learned encoders. Importing a module of this package imports torch."""
