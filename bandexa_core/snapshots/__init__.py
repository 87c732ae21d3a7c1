"""Snapshots on disk and as bytes: manifest, tensors, store, publishing."""
