"""Simulated workloads that drive the service over HTTP and measure regret.

Every module is a client of the service and none imports it. A run without `--url` starts a private
server as a subprocess.
"""
