"""Copies of the parameters: in 16 bits, which each step writes in the pass of the update, and with all bits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import core
from ..arrays.param_state import ParamState
from ..arrays.param_state import refresh as refresh

if TYPE_CHECKING:
    from .protocols import OptimizerParts


class WritesCopies:
    """The argument `copies` of an optimizer, and copies of parameters with their extra bits."""

    copies: Any
    param_states: list[ParamState]

    def refresh_copies(self: Any) -> None:
        """Round the parameters into `copies` now; needed only after they were changed by other means than `step`.

        >>> import numpy as np, fastoptim as fo
        >>> p, half = np.ones(2, np.float32), np.zeros(2, np.float16)
        >>> opt = fo.SGD(p, lr=0.5, copies=half)
        >>> opt.step(np.ones(2, np.float32))
        >>> half
        array([0.5, 0.5], dtype=float16)
        >>> p[0] = 3
        >>> opt.refresh_copies()
        >>> half
        array([3. , 0.5], dtype=float16)
        """
        self.check_not_swapped()
        self.check_arrays()
        core.complete(lambda: refresh(self.param_states))

    def master_params(self: Any) -> Any:
        """Return copies of the parameters with the bits that `master_weight_bits` or `kahan` keep, in their structure.

        Copies of float64 parameters are float64, all others float32.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.ones(1, np.float16)
        >>> opt = fo.SGD(p, lr=1.0, master_weight_bits=32)
        >>> opt.step(np.full(1, 2.0**-20))
        >>> p, 1 - opt.master_params()
        (array([1.], dtype=float16), array([9.536743e-07], dtype=float32))
        """
        self.check_not_swapped()
        self.check_arrays()
        for param in self.param_states:
            if param.is_remote and self._settings(param.group).extra_bits is not None:
                raise RuntimeError(f"master_params: expected the state of {param.p_place}, which another process has")
        return self._structure.build(iter([param.values() for param in self.param_states]))


def with_copies(optimizer: OptimizerParts, copies: Any) -> list[ParamState]:
    """Return the parameters with their copies, which have the same structure; None for a part of it means no copies."""
    if copies is None:
        return optimizer.param_states
    flat = optimizer._structure.match_partly(copies, "copies")
    return [replace(param, copy=copy) for param, copy in zip(optimizer.param_states, flat, strict=True)]
