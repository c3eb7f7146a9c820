"""More than one process: a Ray cluster (cluster.py) and engines in its workers (ray_engine.py)."""
