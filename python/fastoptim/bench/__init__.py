"""``python -m fastoptim bench``: step times on this machine, compared with its memory bandwidth.

The optimizers import nothing of it.  `internals` alone uses what the package does not export; the run of `cli`,
`timing`, `results` and `table` also serve the scripts in the repository's ``bench/``.
"""
