"""Measurements of this machine that users make themselves; the project's own records are in ``benchmarks/``."""
