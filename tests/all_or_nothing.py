"""Calls of an optimizer in the middle of its training, which an exception at any moment leaves done or not begun."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastoptim as fo
from cases import Array
from models import rate

SHAPES = ((3,), (2, 2), (), (5,))


class Trained(NamedTuple):
    """An optimizer with its parameters and the gradients of the next step."""

    params: list[Array]
    opt: Any
    grads: Any
    scaler: fo.LossScaler

    def seen(self) -> Any:
        """Everything that a call may change."""
        every = [param.state for param in self.opt.param_states]  # without new arrays, which are zero
        state = [{name: array.tobytes() for name, array in own.items() if array.any()} for own in every]
        counted = (self.opt.step_count, dict(self.opt._missed), self.opt._swapped_by)
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.opt.param_groups]
        return [p.tobytes() for p in self.params], state, counted, options, self.scaler.state_dict()


def trained(
    optimizer: type[fo.Optimizer] = fo.Adam,
    steps: int = 3,
    missing: int | None = None,
    grouped: bool = False,
    times: int = 1,
    assigned: dict[str, Any] | None = None,
    **options: Any,
) -> Trained:
    rng = np.random.default_rng(0)
    params, grads = ([np.array(rng.random(shape), np.float32) for shape in SHAPES * times] for _ in range(2))
    opt = optimizer([{"params": params[:2]}, {"params": params[2:]}] if grouped else params, **options)
    scaler = fo.LossScaler(growth_interval=steps + 1)
    for _ in range(steps):
        opt.step([grads[:2], grads[2:]] if grouped else grads)
        scaler.update(True)
    for name, value in (assigned or {}).items():
        setattr(opt, name, value)
    given = [None if i == missing else g for i, g in enumerate(grads)]
    return Trained(params, opt, [given[:2], given[2:]] if grouped else given, scaler)


def step(case: Trained) -> None:
    case.opt.step(case.grads)


def step_strided(case: Trained) -> None:
    case.opt.step([*case.grads[:3], np.repeat(case.grads[3], 2)[::2]])


def lookahead(case: Trained) -> None:
    with case.opt.lookahead():
        pass


def averaged(case: Trained) -> None:
    with case.opt.averaged():
        pass


def load(case: Trained) -> None:
    case.opt.load_state_dict(SAVED)


def assign_lr(case: Trained) -> None:
    case.opt.lr = 0.25


def update_buffers(case: Trained) -> None:
    module = fo.functional if case.opt.backend == "native" else fo.reference
    module.adam(case.params[0], case.grads[0], *case.opt.param_states[0].state.values(), step=4)


SCALE = np.array(8.0)
SAVED = trained(steps=5, amsgrad=True).opt.state_dict()
SCALER = fo.LossScaler(growth_factor=3.0).state_dict()
PICKLED = pickle.dumps(trained().opt)
Kinds = dict[str, tuple[Callable[[Trained], Any], dict[str, Any]]]
KINDS: Kinds = {
    "the fast path": (step, {}),
    "the first step": (step, {"steps": 0}),
    "a schedule": (step, {"lr": rate}),
    "a schedule of many arrays": (step, {"lr": rate, "times": 5}),
    "constants of the step": (step, {"optimizer": fo.NAdam}),
    "clipping": (step, {"clip_global_norm": 0.5}),
    "an average": (step, {"ema": 0.9}),
    "a loss scale": (step, {"grad_scale": SCALE, "skip_nonfinite": True}),
    "no gradient": (step, {"missing": 1}),
    "no gradient with a schedule": (step, {"missing": 2, "lr": rate}),
    "a strided gradient": (step_strided, {}),
    "new state": (step, {"assigned": {"amsgrad": True}}),
    "sums": (step, {"optimizer": fo.LAMB}),
    "sums of all arrays": (step, {"optimizer": fo.Prodigy, "missing": 0}),
    "the reference": (step, {"backend": "reference"}),
    "the reference with sums": (step, {"backend": "reference", "optimizer": fo.Prodigy, "missing": 0}),
    "loading": (load, {}),
    "lookahead": (lookahead, {"optimizer": fo.NAG}),
    "averaged": (averaged, {"swa_start": 1}),
    "eval": (lambda case: case.opt.eval(), {"optimizer": fo.ScheduleFreeSGD}),
    "an option of two groups": (assign_lr, {"grouped": True}),
    "zeroing the state": (lambda case: case.opt.zero_state(), {"ema": 0.5}),
    "functional": (update_buffers, {}),
    "the functional reference": (update_buffers, {"backend": "reference"}),
    "a skipped step": (lambda case: case.scaler.update(False), {}),
    "the last step before a larger scale": (lambda case: case.scaler.update(True), {}),
    "loading a scale": (lambda case: case.scaler.load_state_dict(SCALER), {}),
}
READING: Kinds = {  # nothing but memory of their own is written
    "constructing": (lambda case: fo.Adam(case.params, clip_norm=1.0), {}),
    "state_dict": (lambda case: case.opt.state_dict(), {}),
    "deepcopy": (lambda case: copy.deepcopy(case.opt), {}),
    "copy": (lambda case: copy.copy(case.opt), {}),
    "pickle": (lambda case: pickle.dumps(case.opt), {}),
    "unpickle": (lambda case: pickle.loads(PICKLED), {}),
    "global_norm": (lambda case: fo.global_norm(case.grads), {}),
}
