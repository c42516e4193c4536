"""Optimizers as methods of `scipy.optimize.minimize`.

>>> import fastoptim.scipy
>>> from scipy.optimize import minimize
>>> adam = fastoptim.scipy.minimizer("adam", lr=0.1)
>>> result = minimize(lambda x: ((x - 1) ** 2).sum(), [0.0, 3.0], method=adam)
>>> result.success, result.x.round(4)
(True, array([1., 1.]))
"""

from .frontends.scipy import Minimizer as Minimizer
from .frontends.scipy import minimizer as minimizer

__all__ = ["Minimizer", "minimizer"]
