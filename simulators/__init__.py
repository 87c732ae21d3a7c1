"""Simulated workloads that drive the service over HTTP and measure regret.

Everything here is a client: nothing imports the service, and the private server that a run may
start is a subprocess.
"""
