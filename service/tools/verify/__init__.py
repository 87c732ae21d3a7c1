"""The parts of `bandexa verify`: what is read, recomputed and compared; `service.verify` runs them.

Runs in the process of the command, in one thread, on read-only connections. Nothing is written.
"""
