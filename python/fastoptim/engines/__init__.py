"""Engines: they step a fixed list of arrays, by compiled code or by the reference in NumPy."""
