"""Early stopping: its rules, the parameters that it restores, and Keras's callback."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, assert_same_bits
from frameworks import import_keras, keras_warning
from loops import loop
from models import Backend, each_backend


def made(**options: Any) -> tuple[dict[str, Any], fo.SGD, fo.EarlyStopping]:
    params = {"w": np.full((2, 3), 4.0), "b": [np.full(2, 4.0, np.float32)]}
    opt = fo.SGD(params, lr=1.0)
    return params, opt, fo.EarlyStopping(opt, **options)


GRADS = {"w": np.ones((2, 3)), "b": [np.ones(2, np.float32)]}


def run(losses: list[float], **options: Any) -> tuple[fo.EarlyStopping, dict[str, Any], int]:
    """Step once per loss until the rules stop the loop; the parameters are 4, 3, 2, ... at the losses."""
    params, opt, stopping = made(**options)
    for index, loss in enumerate(losses):
        if stopping.update(loss, GRADS):
            return stopping, params, index
        opt.step(GRADS)
    return stopping, params, len(losses)


@pytest.mark.parametrize(
    ("losses", "options", "stops_at", "reason", "best"),
    [
        ([5, 4, 4, 4, 3], {"patience": 2}, 3, "patience", 1),
        ([5, 4, 4, 3, 4, 4], {"patience": 2}, 5, "patience", 3),
        ([5, 4, 3.5, 3.2, 0], {"patience": 2, "min_delta": 1}, 5, "", 4),
        ([5, 4.5, 4.2, 0], {"patience": 2, "min_delta": 1}, 2, "patience", 2),
        ([5, math.nan, math.nan, 0], {"patience": 2}, 2, "patience", 0),
        ([math.inf, math.nan, 4], {"patience": 2}, 1, "patience", None),
        ([5, 4, 3, 2], {"threshold": 3}, 2, "threshold", 2),
        ([-math.inf, 0], {"threshold": -math.inf}, 0, "threshold", 0),
        ([5, 4, 6, 2], {"max_steps": 2}, 2, "max_steps", 1),
        ([5, 4], {"grad_tol": 1}, 0, "grad_tol", 0),
        ([5, 4], {"grad_tol": 0.999}, 2, "", 1),
        ([5] * 12, {}, 10, "patience", 0),
        ([5] * 30, {"patience": None}, 30, "", 0),
    ],
)
def test_the_rules(losses: list[float], options: dict[str, Any], stops_at: int, reason: str, best: int | None) -> None:
    stopping, params, index = run(losses, **options)
    if not reason:
        stopping.restore()
    assert (index, stopping.reason, stopping.best_step) == (stops_at, reason, best or 0)
    assert stopping.best_loss == (math.inf if best is None else losses[best])
    values = {4.0 - (stops_at if best is None else best)}
    assert set(params["w"].flat) | set(params["b"][0].flat) == values
    if reason:
        assert stopping.update(-1e9, GRADS)  # nothing changes after the end
        assert set(params["w"].flat) == values
        assert stopping.best_loss != -1e9


def test_parameters_stay_without_restore_best() -> None:
    stopping, params, index = run([5, 6, 6, 6], patience=2, restore_best=False)
    stopping.restore()
    assert (index, set(params["w"].flat), stopping.best_step) == (2, {2.0}, 0)


@each_backend
def test_restored_arrays_are_stepped_on(backend: Backend) -> None:
    p = np.full(3, 4.0)
    opt = fo.SGD(p, lr=1.0, backend=backend)
    stopping = fo.EarlyStopping(opt, patience=1)
    for loss in (1.0, 2.0):
        stopping.update(np.array(loss))
        opt.step(np.ones(3))
    opt.step(np.ones(3))
    assert (opt.step_count, list(p)) == (3, [2.0] * 3)  # 4 was restored at the second loss


@loop(("before", "after"), [(24, None), (None, 24), (24, 32), (32, 24)])
def test_extra_bits_of_an_assigned_option_begin_at_zero(before: Any, after: Any) -> None:
    """The parameters of the lowest loss are restored whatever extra bits the optimizer has kept then and now."""
    params = [np.full(3, 4.0, BFLOAT16), np.full(2, 4.0, BFLOAT16)]
    opt = fo.SGD(params, lr=0.01, master_weight_bits=before)
    grads = [np.ones(3), np.ones(2)]
    opt.step(grads)
    best = [p.copy() for p in params]
    stopping = fo.EarlyStopping(opt, patience=1)
    stopping.update(1)
    opt.master_weight_bits = after
    for _ in range(5):
        opt.step(grads)
    assert stopping.update(2)
    assert stopping.best_loss == 1
    for p, value, want in zip(params, opt.master_params(), best, strict=True):
        assert_same_bits(p, want)
        assert_same_bits(value, want.astype(np.float32))


def test_a_loop_with_averages_is_judged_outside_their_block() -> None:
    opt = fo.SGD(np.ones(2), ema=0.5)
    opt.step(np.ones(2))
    stopping = fo.EarlyStopping(opt)
    with opt.averaged(), pytest.raises(RuntimeError, match="averaged"):
        stopping.update(1.0)
    assert stopping.best_loss == math.inf


@loop("source", [[0, 1, -1], [1, 0]])
@loop("loss", [2.0, math.nan])
def test_the_lowest_loss_is_that_of_the_present_rows(source: list[int], loss: float) -> None:
    """Copies of rows that `remap` has replaced cannot be restored."""
    params = {"a": np.zeros(2), "e": np.zeros((2, 1))}
    opt = fo.SGD(params, lr=1.0)
    stopping = fo.EarlyStopping(opt, patience=1)
    stopping.update(1.0)
    opt.step({"a": np.ones(2), "e": np.ones((2, 1))})
    new = np.arange(7.0, 7.0 + len(source))[:, None]
    opt.remap({"e": new.copy()}, source={"e": np.array(source)})
    stopping.restore()
    assert stopping.update(loss)
    assert stopping.best_loss == (math.inf if math.isnan(loss) else loss)
    assert (params["e"].tolist(), params["a"].tolist()) == (new.tolist(), [-1, -1])


@each_backend
@loop("optimizer", [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW])
def test_eval_has_the_averages_of_the_lowest_loss(optimizer: type[fo.ScheduleFreeSGD], backend: Backend) -> None:
    p, target = np.full(4, 3.0), np.linspace(-1, 1, 4)
    opt = optimizer(p, lr=0.9, backend=backend)
    stopping = fo.EarlyStopping(opt, patience=20)
    while True:
        opt.eval()
        loss = float(((p - target) ** 2).mean())
        opt.train()
        if stopping.update(loss):
            break
        opt.step(2 * (p - target) + np.sin(opt.step_count))
    assert 0 < stopping.best_step < opt.step_count
    opt.eval()
    assert ((p - target) ** 2).mean() == stopping.best_loss


@loop(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience"),
        ({"patience": 1.5}, TypeError, "patience"),
        ({"min_delta": -1}, ValueError, "min_delta"),
        ({"restore_best": 1}, TypeError, "restore_best"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"threshold": math.nan}, ValueError, "threshold"),
        ({"threshold": "low"}, TypeError, "threshold"),
        ({"grad_tol": -1.0}, ValueError, "grad_tol"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}: expected"):
        made(**options)


@pytest.mark.parametrize(
    ("make", "argument_of"),
    [
        (fo.LBFGS, lambda p: lambda: (p @ p, 2 * p)),
        (lambda p: fo.Lookahead(fo.SGD(p, lr=1.0)), lambda p: 2 * p),
        (lambda p: fo.Mixed([{"params": p, "optimizer": fo.Lion}]), lambda p: [2 * p]),
    ],
    ids=["L-BFGS", "a wrapper", "a mixture"],
)
def test_any_optimizer_of_the_package_is_stopped(make: Any, argument_of: Any) -> None:
    p = np.full(2, 4.0)
    opt = make(p)
    stopping = fo.EarlyStopping(opt, max_steps=1)
    assert not stopping.update(0.0)
    opt.step(argument_of(p))
    moved = p.copy()
    assert stopping.update(1.0)
    assert (moved != p).all()
    assert (p == 4).all()


def test_wrong_arguments_change_nothing() -> None:
    with pytest.raises(TypeError, match=r"^optimizer: expected one with param_states and step_count, got a list"):
        fo.EarlyStopping([np.ones(2)])  # type: ignore[arg-type]
    _, _, stopping = made(grad_tol=0.1)
    zeros: dict[str, Any] = {"w": np.zeros((2, 3)), "b": [np.zeros(2, np.float32)]}
    for arguments, place in [
        ((1.0,), "grads"),
        (("low",), "loss"),
        ((np.ones(2), GRADS), "loss"),
        *(((1.0, grads), "grads") for grads in ("g", [], {}, [None], {"w": zeros["w"]}, {"w": None, "b": [None]})),
        ((1.0, {**zeros, "b": zeros["b"][0]}), r"grads\['b'\]"),
        ((1.0, {**zeros, "w": [zeros["w"]]}), r"grads\['w'\]"),
        ((1.0, {**zeros, "w": np.zeros((3, 2))}), r"grads\['w'\]"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^{place}: expected"):
            stopping.update(*arguments)
        assert (stopping.best_loss, stopping.reason) == (math.inf, "")
    assert stopping.update(1.0, {**zeros, "b": [None]})  # as `step` accepts


@keras_warning
@loop("min_delta", [0.0, 0.05])
@loop("patience", [1, 3])
def test_keras_stops_at_the_same_loss(patience: int, min_delta: float) -> None:
    keras = import_keras()
    for seed in range(5):
        losses = [float(x) for x in 1 / np.arange(1, 41) + np.random.default_rng(seed).normal(0, 0.05, 40)]
        callback = keras.callbacks.EarlyStopping("loss", min_delta=min_delta, patience=patience)
        callback.set_model(keras.Sequential())
        callback.on_train_begin()
        for index, loss in enumerate(losses):
            callback.on_epoch_end(index, {"loss": loss})
            if callback.stopped_epoch:
                break
        _, _, ours = run(losses, patience=patience, min_delta=min_delta)
        assert ours == callback.stopped_epoch > 0
