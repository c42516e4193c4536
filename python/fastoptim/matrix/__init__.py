"""Optimizers whose steps depend on whole matrices."""
