"""Stochastic gradient Langevin dynamics: SGD with Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from . import core, random_bits
from .arrays.cuda_families import ArrayMetadata, Cuda
from .arrays.families import in_numpy
from .optimizer.accumulation import ACCUMULATED, Accumulation
from .optimizer.base import Optimizer
from .options.checks import LearningRate, NonNegative, Seed
from .reference_math import Array
from .rules.momentum import Momentum


class SGLD(Optimizer):
    r"""Stochastic gradient Langevin dynamics: SGD with Gaussian noise, which samples instead of minimizing.

    .. math::
        \text{"langevin":}\quad \sigma &= \sqrt{2\, \eta\, \text{noise}}, \qquad
        \text{"gradient":}\quad \sigma = \eta \sqrt{\text{noise} / t^\gamma} \\
        p &= p - \eta g + \sigma \xi, \qquad \xi \sim N(0, 1) \text{ for each element and step}

    With "langevin", `noise` is the temperature: for 1 and gradients of the negative log posterior of all data, the
    parameters are samples of the posterior, if :math:`\eta` is small or decreases to 0.  With "gradient", the noise is
    added to the gradient, with variance `noise` at first, and anneals.  The noise is neither scaled nor clipped.

    :math:`\xi` is a function of the seed, the parameter's index, the step and the element's position in memory (Philox
    4x32-10 and a rational approximation of the normal quantile, accurate to 2e-7, between -6.34 and 6.34).  So it has
    the same bits in both backends and for every number of threads, and does not repeat after a checkpoint.  It costs
    one state array and nearly all of the step's time: some 12 ns per element, 34 times a step of SGD
    (``python bench/wrappers.py``).  A parameter without a gradient in a step gets no noise.

    Not available: `fo.functional`, CUDA graphs.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step, such as ``fo.schedules.InverseTime``.
            Default 1e-3.
        noise: The temperature or the variance, at least 0.  Default 1.
        seed: An integer from 0 to 2^63 - 1.  Default 0.
        form: "langevin" or "gradient".  Default "langevin".
        gamma: :math:`\gamma`, at least 0, for "gradient".  Default 0.55.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.

    Source: Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", 2011; "gradient":
    Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", 2015, arXiv:1511.06807.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.zeros(1000)
    >>> opt = fo.SGLD(p, lr=0.02)
    >>> for _ in range(500):
    ...     opt.step(p.copy())  # minus the gradient of the log density of a standard normal distribution
    >>> round(float(p.std()), 1)
    1.0
    """

    name = "sgld"
    variants = {"momentum_velocity": ("v",)}
    host_constants = ("momentum",)
    has_function = False

    lr: LearningRate = 1e-3
    noise: NonNegative = 1.0
    seed: Seed = 0
    form: Literal["langevin", "gradient"] = "langevin"
    gamma: NonNegative = 0.55

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        self._noise_of: tuple[Any, ...] = ()
        self._make_noise()

    @staticmethod
    def compute_host_constants(*, t: int, lr: float, noise: float, form: str, gamma: float) -> dict[str, float]:
        """Return the standard deviation of the noise, in the place of a momentum."""
        if form == "gradient":
            return {"momentum": lr * math.sqrt(noise * float(t) ** -gamma)}
        return {"momentum": math.sqrt(2 * lr * noise)}

    @staticmethod
    def reference(p: Array, g: Array, v: Array, *, t: int, lr: float, momentum: float, **_: Any) -> None:
        """The formula in NumPy, with the noise in v."""
        Momentum.reference(p, g, v, t=t, lr=lr, momentum=momentum, nesterov=False, form="velocity")

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters in place; see `Optimizer.step`."""
        self._make_noise()  # a no-op, unless a seed was assigned or an interrupt came before the other call
        result = super().step(grads, accumulation=accumulation)
        self._make_noise()
        return result

    def graph_step(self) -> None:
        """Raise RuntimeError: the noise of a captured step would repeat."""
        raise RuntimeError("graph_step: expected an optimizer without noise, which a CUDA graph would repeat")

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group; see `Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        self._make_noise()

    def remap(self, params: Any, source: Any) -> None:
        """Replace parameters by arrays with other rows; see `Optimizer.remap`.  The noise is that of the new places."""
        self._noise_of = ()
        super().remap(params, source)
        self._make_noise()

    def zero_state(self) -> None:
        """Begin the noise again; see `Optimizer.zero_state`."""
        self._noise_of = ()
        super().zero_state()
        self._make_noise()

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Continue from a state dict; see `Optimizer.load_state_dict`."""
        self._noise_of = ()
        super().load_state_dict(state_dict, convert=convert)
        self._make_noise()

    def _make_noise(self) -> None:
        """Write the noise of the next step into the state, unless it is there."""
        step = self._step_count + 1
        wanted = (step, len(self.param_states), *[group["seed"] for group in self.param_groups])
        if wanted == self._noise_of:
            return
        self._noise_of = ()
        seeds = [self._settings(index).options["seed"] for index in range(len(self.param_groups))]
        for index, param in enumerate(self.param_states):
            if not param.is_remote:
                self._fill(param.family, param.state["v"], (seeds[param.group], step, index))
        self._noise_of = wanted

    def _fill(self, family: Any, array: Any, key: tuple[int, int, int]) -> None:
        if isinstance(family, Cuda):
            family.check_takes_place(array)
            metadata = family.metadata(array, "")
            assert isinstance(metadata, ArrayMetadata)
            core.fill_normal(metadata, *key, where=metadata.gpu, stream=family.stream(metadata.gpu).pointer)
        elif self.backend == "native":
            core.fill_normal(in_numpy(array), *key)
        else:
            seed, step, index = key
            host = in_numpy(array)
            in_order = host.transpose(sorted(range(host.ndim), key=lambda axis: -host.strides[axis]))
            in_order.reshape(-1)[...] = random_bits.normal_numbers(seed, index, step, host.size).astype(host.dtype)
