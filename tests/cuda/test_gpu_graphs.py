"""Steps on the caller's streams, and steps captured in CUDA graphs: the same bits as the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32
from cases import ordinary_values as ordinary
from devices import get, put, with_device
from gpu_pairs import Pair, assert_same_leaves, model, tree_of
from models import leaves, rate


@with_device
def test_steps_on_streams_of_the_caller_s(xp: Any) -> None:
    """Two in flight, each on its own stream; what follows on a stream sees what came before."""
    streams = [xp.cuda.Stream(non_blocking=True) for _ in range(2)]
    pairs = []
    for seed, stream in enumerate(streams):
        with stream:
            pairs.append(Pair(xp, lambda params, backend: fo.Adam(params, backend=backend), model(seed)))
    for seed in range(2, 8):
        for pair, stream in zip(pairs, streams, strict=True):
            with stream:
                pair.there.step(pair.onto(model(seed)))
            pair.here.step(tree_of(model(seed)))
    for pair, stream in zip(pairs, streams, strict=True):
        stream.synchronize()
        pair.assert_same()


def captured(xp: Any, stream: Any, step: Callable[[], Any]) -> Any:
    stream.begin_capture()
    try:
        assert step() is False
    finally:
        graph = stream.end_capture()
    return graph


GRAPHED: list[tuple[type[fo.Optimizer], dict[str, Any]]] = [
    (fo.SGD, {"momentum": 0.5, "lr": rate}),
    (fo.AdamW, {"lr": fo.schedules.Warmup(fo.schedules.Cosine(1e-2, T_max=9), warmup_steps=3)}),
    (fo.Adam, {"clip_norm": 1.0, "clip_global_norm": 1.0, "ema": 0.5, "grad_scale": 3.0}),
    (
        fo.AdamW,
        {"lr": rate, "cautious": True, "cautious_decay": True, "decay_schedule": "corrected", "bounds": (-1, 1)},
    ),
    (fo.NAdam, {}),
    (fo.LAMB, {}),
    (fo.NovoGrad, {}),
    (fo.Prodigy, {}),
    (fo.ScheduleFreeAdamW, {"warmup_steps": 3}),
    (fo.RAdam, {"swa_start": 4, "swa_every": 2}),
    (fo.AdamW, {"state_format": "int8", "int8_min_size": 0, "master_weight_bits": 24}),
    (fo.LAMB, {"state_format": "bfloat16", "stochastic_rounding": True, "seed": 3}),
]


@with_device
@pytest.mark.parametrize(("optimizer", "options"), GRAPHED, ids=lambda thing: getattr(thing, "name", ""))
@pytest.mark.parametrize("missing", [(), (3,)], ids=["all", "one missing"])
def test_a_captured_step_continues(
    xp: Any, optimizer: type[fo.Optimizer], options: dict[str, Any], missing: tuple[int, ...]
) -> None:
    with xp.cuda.Stream(non_blocking=True) as stream:
        pair = Pair(xp, lambda params, backend: optimizer(params, **options, backend=backend), model(0))
        pair.step([None, *model(1)[1:]])  # an array that is late ever after
        absent = [None if i in missing else g for i, g in enumerate(model(2))]
        grads = pair.onto(absent)
        graph = captured(xp, stream, lambda: pair.there.step(grads))
        pair.assert_same()
        for seed in range(3, 9):
            values = [None if i in missing else g for i, g in enumerate(model(2 + 4 * seed))]
            for buffer, new in zip(leaves(grads), values, strict=True):
                if buffer is not None and new is not None:
                    buffer[...] = xp.asarray(new)
            if seed == 6:  # an ordinary step in between
                pair.step(model(seed))
            pair.there.graph_step()
            graph.launch()
            pair.here.step(tree_of(values))
            stream.synchronize()
            pair.assert_same()
        pair.step(model(9))


@with_device
def test_steps_that_some_arrays_miss_between_replays(xp: Any) -> None:
    """An array by itself in its group continues by its own clock; one that had its clock with others cannot."""

    def make(params: Any, backend: Any) -> Any:
        first, *rest = leaves(params)
        return fo.Adam([{"params": [first]}, {"params": rest}], backend=backend)

    with xp.cuda.Stream(non_blocking=True) as stream:
        there, here = (
            make([array(p) for p in model(0)], how)
            for array, how in ((lambda p: put(xp, p), "native"), (np.array, "reference"))
        )
        given = [put(xp, g) for g in model(1)]
        grads = [given[:1], given[1:]]

        def step(missing: Sequence[int]) -> None:
            for opt, values in ((there, [put(xp, g) for g in model(2)]), (here, model(2))):
                some = [None if i in missing else g for i, g in enumerate(values)]
                opt.step([some[:1], some[1:]])

        step([])
        graph = captured(xp, stream, lambda: there.step(grads))
        step([0])
        for _ in range(2):
            there.graph_step()
            graph.launch()
            here.step([model(1)[:1], model(1)[1:]])
        stream.synchronize()
        assert_same_leaves(xp, there.params, here.params)
        step([0, 3])
        with pytest.raises(RuntimeError, match="capture the step again"):
            there.graph_step()
        assert there.step_count == 5


@with_device
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}], ids=["plain", "norms"])
def test_a_replay_before_graph_step_takes_the_captured_step(xp: Any, options: dict[str, Any]) -> None:
    """Also in a later capture, whose replay leaves the constants of an earlier graph alone."""
    with xp.cuda.Stream(non_blocking=True) as stream:
        pair = Pair(xp, lambda params, backend: fo.Adam(params, **options, backend=backend), model(0))
        pair.step(model(1))
        grads = pair.onto(model(2))
        graph = captured(xp, stream, lambda: pair.there.step(grads))
        pair.assert_same()
        graph.launch()
        pair.here.step(tree_of(model(2)))
        stream.synchronize()
        assert_same_leaves(xp, pair.there.params, pair.here.params)
        assert pair.there.step_count == 1  # not counted: graph_step was not called
        pair.here._counts[0] -= 1
        again = captured(xp, stream, lambda: pair.there.step(grads))
        for each in (again, graph):
            pair.there.graph_step()
            each.launch()
            pair.here.step(tree_of(model(2)))
            stream.synchronize()
            pair.assert_same()


@with_device
@pytest.mark.parametrize("change", ["variant", "load", "group"])
def test_a_graph_outlives_the_model_that_it_captured(xp: Any, change: str) -> None:
    """What it uses is not freed when options or state dicts make other state and another model."""
    with xp.cuda.Stream(non_blocking=True) as stream:
        p = put(xp, np.ones(5000, np.float32))
        g = put(xp, np.ones(5000, np.float32))
        opt: Any = fo.Adam([p], clip_norm=1.0)
        opt.step([g])
        graph = captured(xp, stream, lambda: opt.step([g]))
        if change == "variant":
            opt.amsgrad = True
        elif change == "load":
            opt.load_state_dict(opt.state_dict())
        else:
            opt.ema = 0.5
        opt.step([g])
        stream.synchronize()
        expected = np.array(get(xp, p))
        m, v = (np.array(get(xp, opt.state[0][name])) for name in ("m", "v"))
        fo.reference.adam(expected, np.ones(5000, np.float32), m, v, step=2, clip_norm=1.0)
        graph.launch()
        stream.synchronize()
        assert_same_leaves(xp, [p], [expected])


@with_device
def test_many_arrays_captured(xp: Any) -> None:
    rng = np.random.default_rng(0)
    p = [ordinary(rng, FLOAT32, 7) for _ in range(1500)]
    g = [ordinary(rng, FLOAT32, 7) for _ in range(1500)]
    here = fo.Adam([a.copy() for a in p], clip_global_norm=1.0)
    with xp.cuda.Stream(non_blocking=True) as stream:
        there: Any = fo.Adam([put(xp, a) for a in p], clip_global_norm=1.0)
        grads = [put(xp, a) for a in g]
        there.step(grads)
        graph = captured(xp, stream, lambda: there.step(grads))
        for _ in range(3):
            there.graph_step()
            graph.launch()
        stream.synchronize()
    for _ in range(4):
        here.step(g)
    assert_same_leaves(xp, there.params, here.params)


@with_device
def test_a_capture_that_cannot_be(xp: Any) -> None:
    p, g = put(xp, np.ones((2, 3), np.float32)), put(xp, np.ones((2, 3), np.float32))

    def refused(opt: Any, grad: Any, error: type[Exception], match: str) -> None:
        with xp.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                with pytest.raises(error, match=match):
                    opt.step(grad)
            finally:
                stream.end_capture()

    refused(fo.Adam(p), g, RuntimeError, "step: expected an ordinary step before")
    opt: Any = fo.Adam(p, skip_nonfinite=True)
    opt.step(g)
    refused(opt, g, ValueError, "skip_nonfinite: expected False")
    opt = fo.Adam(p)
    opt.step(g)
    refused(opt, put(xp, np.ones((3, 2), np.float32)).transpose(1, 0), ValueError, "memory order")
    assert opt.step_count == 1
    opt.amsgrad = True  # whose state would be made in the graph, and never
    refused(opt, g, RuntimeError, "step: expected an ordinary step before")
    refused(opt, g, RuntimeError, "step: expected an ordinary step before")
    assert "v_max" not in opt.state
    opt.step(g)
    assert (get(xp, opt.state["v_max"]) > 0).all()


@with_device
def test_a_replay_that_cannot_be(xp: Any) -> None:
    p, g = put(xp, np.ones(3, np.float32)), put(xp, np.ones(3, np.float32))
    opt: Any = fo.Adam(p)
    nothing = r"graph_step: expected a step captured in a CUDA graph before"
    with pytest.raises(RuntimeError, match=nothing):
        opt.graph_step()
    opt.step(g)
    with pytest.raises(RuntimeError, match=nothing):
        opt.graph_step()
    with pytest.raises(RuntimeError, match=nothing):
        fo.Adam(np.ones(3)).graph_step()

    def capture() -> None:
        with xp.cuda.Stream(non_blocking=True) as stream:
            captured(xp, stream, lambda: opt.step(g))

    capture()
    opt.graph_step()
    assert opt.step_count == 2
    for name, value in {"skip_nonfinite": True, "clip_norm": 1.0, "clip_global_norm": 1.0}.items():
        before = getattr(opt, name)
        setattr(opt, name, value)
        with pytest.raises(RuntimeError, match="capture it again"):
            opt.graph_step()
        setattr(opt, name, before)
    opt.graph_step()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="before a replay"):
            opt.graph_step()
        stream.end_capture()
    opt.amsgrad = True
    with pytest.raises(RuntimeError, match=nothing):
        opt.graph_step()
    opt.step(g)
    capture()
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(RuntimeError, match=nothing):
        opt.graph_step()
    assert opt.step_count == 4
