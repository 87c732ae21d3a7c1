"""Snapshots of a bandit: manifest, files on disk, exported form, publishing."""
