"""``python -m fastoptim bench``: how long steps take on this machine, beside what its memory allows.

Nothing of it is imported by the optimizers.  `timing` and `machine` know nothing of optimizers and serve other
benchmarks too.
"""
