r"""Learning rates that change with the step: give one to any optimizer as its `lr`.

>>> import numpy as np, fastoptim as fo
>>> params = {"w": np.ones((3, 2)), "b": np.zeros(2)}
>>> schedule = fo.schedules.Warmup(fo.schedules.Cosine(lr=0.1, T_max=900), warmup_steps=100)
>>> opt = fo.Adam(params, lr=schedule)
>>> opt.step({"w": np.ones((3, 2)), "b": np.ones(2)})
>>> [round(schedule(step), 4) for step in (0, 50, 100, 550, 1000)]
[0.0, 0.05, 0.1, 0.05, 0.0]

A schedule is a pure function of the step, counted from 0.  It has no state: nothing has to be saved, and it may be
called with any step at any time.  Schedules are immutable and compare by their options.  A step is one call of the
optimizer's `step`; a schedule in epochs is ``lambda step: schedule(step // steps_per_epoch)``.

Options have PyTorch's names, order and defaults, or optax's where PyTorch has none, and come after the learning rate,
which PyTorch reads from the optimizer.  Values are those of PyTorch's closed forms.  After its end a schedule holds
its last value, as in optax; periodic ones continue.

`ReduceOnPlateau` is the only one with state: it follows a metric.
"""

from .annealing import REX as REX
from .annealing import Cosine as Cosine
from .annealing import Linear as Linear
from .annealing import OneMinusPower as OneMinusPower
from .annealing import Polynomial as Polynomial
from .base import Schedule as Schedule
from .combined import Product as Product
from .combined import Sequence as Sequence
from .combined import Warmup as Warmup
from .cycles import CosineWarmRestarts as CosineWarmRestarts
from .cycles import Cyclic as Cyclic
from .cycles import OneCycle as OneCycle
from .decay import Exponential as Exponential
from .decay import InverseSqrt as InverseSqrt
from .decay import InverseTime as InverseTime
from .decay import NaturalExponential as NaturalExponential
from .plateau import ReduceOnPlateau as ReduceOnPlateau
from .stepwise import Constant as Constant
from .stepwise import MultiStep as MultiStep
from .stepwise import PiecewiseConstant as PiecewiseConstant
from .stepwise import Step as Step
