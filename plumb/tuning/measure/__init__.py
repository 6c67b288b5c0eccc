"""Measurements that belong to the graph: what each operator costs, what it reads, and whether it is random."""
