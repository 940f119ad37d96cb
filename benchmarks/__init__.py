"""Experiments, their rows in results/, and the tables made from them: `python -m benchmarks`."""
