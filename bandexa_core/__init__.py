"""Neural-Linear Thompson sampling without HTTP: posteriors, encoders, policies, replay, snapshots.

One idea holds it together: a served model is a pure function of (snapshot, log position).
See `model.load_model`, the one code path that start, swap and verification share.
"""

__version__ = "0.1.0"
