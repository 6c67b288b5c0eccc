"""Servers on the loopback, each in processes of its own, for benchmarks of remote data."""
