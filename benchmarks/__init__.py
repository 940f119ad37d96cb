"""Experiments whose rows stand in results/, and the tables that are made of them: `python -m benchmarks`."""
