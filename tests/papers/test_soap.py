"""SOAP follows its authors' rule, written down here for arrays of any shape, and the bases diagonalize the factors.

Where a factor has no full rank its eigenvectors are not unique, and neither is the step.  So most shapes here give
factors of full rank from one gradient; the test of oblong matrices takes the first bases from the optimizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from fastoptim.matrix.kronecker import merged, sides_of, unpack
from loops import loop
from models import Backend, each_backend

SHAPES = ((5, 5), (2, 3, 6), (4,), ())
STEPS = 50
# In float64.  A step rounds some 100 times in another order; five QR decompositions and fifty steps add the errors up.
RTOL, ATOL = 1e-7, 1e-9
RATES = [0.02 / (1 + 0.05 * t) for t in range(STEPS)]


def gradients(shape: tuple[int, ...], seed: int = 0) -> list[Array]:
    """Return gradients whose factors have eigenvalues far apart: neighboring ones would multiply errors."""
    rng = np.random.default_rng([seed, *shape])
    scale = np.multiply.outer(np.ones(()), 1.0)
    for side in shape:
        scale = np.multiply.outer(scale, 3.0 ** -np.arange(side))
    return [scale.reshape(shape) * rng.standard_normal(shape) for _ in range(STEPS)]


def merged_by_the_authors(shape: tuple[int, ...], limit: int) -> list[int]:
    new, current = [], 1
    for side in shape:
        if current * side > limit:
            if current > 1:
                new.append(current)
                current = side
            else:
                new.append(side)
                current = 1
        else:
            current *= side
    return new + [current] * (current > 1 or not new)


@dataclass
class Authors:
    """soap.py of the authors for one array, in their order of operations, with tensordot along each axis."""

    p: Array
    betas: tuple[float, float] = (0.95, 0.95)
    shampoo_beta: float = -1
    eps: float = 1e-8
    weight_decay: float = 0.01
    frequency: int = 10
    limit: int = 10000
    merge: bool = False
    of_vectors: bool = False
    normalize: bool = False
    correct: bool = True
    bases: Any = None

    def __post_init__(self) -> None:
        p = self.p = self.p.copy()
        self.t, self.m, self.v = 0, 0 * p, 0 * p
        self.axes = tuple(merged_by_the_authors(p.shape, self.limit)) if self.merge and p.ndim > 1 else p.shape
        has = p.ndim != 1 or self.of_vectors
        self.factors = [np.zeros((n, n)) if has and n <= self.limit else None for n in self.axes]
        self.has_begun = False

    def project(self, x: Array, bases: Any, back: bool = False) -> Array:
        x = x.reshape(self.axes)
        for axis, basis in enumerate(bases):
            if basis is not None:
                x = np.moveaxis(np.tensordot(basis if back else basis.T, x, (1, axis)), 0, axis)
        return np.asarray(x.reshape(self.p.shape))

    def average_factors(self, g: Array) -> None:
        beta = self.betas[1] if self.shampoo_beta < 0 else self.shampoo_beta
        g = g.reshape(self.axes)
        for axis, factor in enumerate(self.factors):
            if factor is not None:
                unfolded = np.moveaxis(g, axis, 0).reshape(len(factor), -1)
                factor += (1 - beta) * (np.einsum("ij,kj->ik", unfolded, unfolded) - factor)

    def step(self, g: Array, lr: float) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.average_factors(g)
            if self.bases is None:
                self.bases = [None if f is None else np.linalg.eigh(f)[1][:, ::-1] for f in self.factors]
            return
        self.t += 1
        beta1, beta2 = self.betas
        turned = self.project(g, self.bases)
        self.m = beta1 * self.m + (1 - beta1) * turned
        self.v = beta2 * self.v + (1 - beta2) * turned**2
        size = lr * math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if self.correct else lr
        direction = self.project(self.m / (np.sqrt(self.v) + self.eps), self.bases, back=True)
        if self.normalize:
            direction = direction / (1e-30 + np.sqrt(np.mean(direction**2)))
        self.p = self.p - size * direction
        self.p = self.p - lr * self.weight_decay * self.p
        self.average_factors(g)
        if self.t % self.frequency == 0:
            self.change_bases()

    def change_bases(self) -> None:
        m, v = self.project(self.m, self.bases, back=True), self.v.reshape(self.axes)
        for axis, (factor, basis) in enumerate(zip(self.factors, self.bases, strict=True)):
            if factor is not None:
                order = np.argsort(np.diag(basis.T @ factor @ basis))[::-1]
                v = np.take(v, order, axis)
                self.bases[axis] = np.linalg.qr(factor @ basis[:, order])[0]
        self.m, self.v = self.project(m, self.bases), v.reshape(self.p.shape)


ROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"weight_decay": 0.5, "betas": (0.8, 0.9)}, {"weight_decay": 0.5, "betas": (0.8, 0.9)}),
    ({"shampoo_beta": 0.7, "precondition_frequency": 1}, {"shampoo_beta": 0.7, "frequency": 1}),
    ({"max_precond_dim": 4, "precondition_1d": True}, {"limit": 4, "of_vectors": True}),
    ({"max_precond_dim": 6, "merge_dims": True}, {"limit": 6, "merge": True}),
    ({"precondition_1d": True, "normalize_grads": True}, {"of_vectors": True, "normalize": True}),
    ({"correct_bias": False, "eps": 0.1, "precondition_frequency": 7}, {"correct": False, "eps": 0.1, "frequency": 7}),
]


@each_backend
@loop("row", ROWS)
def test_follows_the_authors(row: tuple[dict[str, Any], dict[str, Any]], backend: Backend) -> None:
    options, theirs = row
    for shape in SHAPES:
        p = np.random.default_rng(9).standard_normal(shape)
        peer, opt = Authors(p, **theirs), fo.SOAP(p, **options, backend=backend)
        for lr, g in zip(RATES, gradients(shape), strict=True):
            opt.lr = lr
            opt.step(g)
            peer.step(g, lr)
            np.testing.assert_allclose(p, peer.p, rtol=RTOL, atol=ATOL)
        np.testing.assert_allclose(abs(opt.state["v"]), peer.v, rtol=1e-5, atol=1e-12)


@each_backend
@loop("shape", [(4, 7), (7, 4), (2, 9), (1, 6), (3, 2, 7)])
def test_oblong_matrices_from_the_same_bases(shape: tuple[int, ...], backend: Backend) -> None:
    """The bases of the first step are orthogonal and diagonalize the factors; from them on the steps agree."""
    p, grads = np.zeros(shape), gradients(shape)
    opt = fo.SOAP(p, backend=backend)
    opt.step(grads[0])
    bases = [basis.copy() for basis in unpack(opt.state["bases"], shape)]
    peer = Authors(p, bases=list(bases))
    peer.step(grads[0], 0.0)
    for basis, factor, theirs in zip(bases, unpack(opt.state["factors"], shape), peer.factors, strict=True):
        assert theirs is not None
        np.testing.assert_allclose(factor, theirs, rtol=1e-12, atol=1e-15)
        diagonal = basis.T @ factor @ basis
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-13)
        np.testing.assert_allclose(diagonal, np.diag(np.sort(np.diag(diagonal))[::-1]), atol=1e-14)
    for lr, g in zip(RATES[1:9], grads[1:9], strict=True):
        opt.lr = lr
        opt.step(g)
        peer.step(g, lr)
        np.testing.assert_allclose(p, peer.p, rtol=RTOL, atol=ATOL)


@each_backend
def test_the_first_step_only_begins_the_factors(backend: Backend) -> None:
    p = {"w": np.full((3, 4), 2.0), "b": np.full(3, 2.0)}
    opt = fo.SOAP(p, lr=0.1, weight_decay=0.5, backend=backend)
    grads = {"w": np.arange(12.0).reshape(3, 4), "b": np.ones(3)}
    assert opt.step(grads) is None
    assert opt.step_count == 1
    assert all((own == 2).all() for own in p.values())
    assert not opt.state["w"]["m"].any()
    assert not opt.state["b"]["v"].any()
    opt.step(grads)
    assert all((own != 2).all() for own in p.values())


@each_backend
def test_a_late_parameter_has_a_first_step_of_its_own(backend: Backend) -> None:
    params = {"a": np.ones((3, 3)), "b": np.ones((3, 3))}
    opt = fo.SOAP(params, backend=backend)
    g = gradients((3, 3))
    opt.step({"a": g[0], "b": None})
    opt.step({"a": g[1], "b": g[0]})
    opt.step({"a": None, "b": g[1]})
    np.testing.assert_array_equal(params["a"], params["b"])
    opt.zero_state()
    before = params["a"].copy()
    opt.step({"a": g[2], "b": None})
    np.testing.assert_array_equal(params["a"], before)


@each_backend
def test_a_vector_is_stepped_by_adam(backend: Backend) -> None:
    p, q = np.ones(5, np.float32), np.ones(5, np.float32)
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0}
    opt, adam = fo.SOAP(p, **options, backend=backend), fo.Adam(q, **options, eps_hat=True)
    for t in range(6):
        g = np.random.default_rng(t).standard_normal(5).astype(np.float32)
        opt.step(g)
        if t:
            adam.step(g)
    np.testing.assert_allclose(p, q, rtol=0, atol=1e-6)
    assert opt.state["factors"].size == 0


@loop("limit", [1, 6, 10, 24, 100])
@loop("shape", [(5,), (4, 6), (2, 3, 4), (8, 4, 3, 3), (1, 1), (1, 7, 1), (12, 12)])
def test_axes_merge_as_the_authors(shape: tuple[int, ...], limit: int) -> None:
    assert list(merged(shape, limit)) == merged_by_the_authors(shape, limit)


def test_sides() -> None:
    options = {"max_precond_dim": 6, "merge_dims": False, "precondition_1d": False}
    assert sides_of((4, 8), options) == (4, 0)
    assert sides_of((5,), options) == (0,)
    assert sides_of((5,), {**options, "precondition_1d": True}) == (5,)
    assert sides_of((2, 3, 4), {**options, "merge_dims": True}) == (6, 4)
    assert sides_of((0, 3), options) == (0, 0)
    assert sides_of((), options) == ()


@each_backend
@loop("bad", [np.inf, np.nan, 1e30])
def test_statistics_that_overflow_are_refused(bad: float, backend: Backend) -> None:
    """The squares of 1e30 are infinite in float32."""
    p = {"w": np.ones((3, 3), np.float32), "b": np.ones(2, np.float32)}
    opt = fo.SOAP(p, backend=backend)
    g = {"w": np.eye(3, dtype=np.float32), "b": np.ones(2, np.float32)}
    for before in range(2):
        state = [array.tobytes() for own in opt.param_states for array in (own.p, *own.state.values())]
        wrong = {**g, "w": g["w"].copy()}
        wrong["w"][1, 2] = bad
        with pytest.raises(FloatingPointError, match=r"grads\['w'\]: expected a gradient whose squares have a finite"):
            opt.step(wrong)
        assert state == [array.tobytes() for own in opt.param_states for array in (own.p, *own.state.values())]
        assert opt.step_count == before
        opt.step(g)


@each_backend
def test_options_of_the_state_are_those_of_the_start(backend: Backend) -> None:
    opt = fo.SOAP({"w": np.ones((3, 5))}, backend=backend)
    opt.max_precond_dim = 4
    message = "max_precond_dim: expected {} as the optimizer was made, as the shape of 'factors' depends on it, got {}"
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: " + message.format(10000, 4)):
        opt.step({"w": np.ones((3, 5))})
    opt.max_precond_dim = 5
    opt.step({"w": np.ones((3, 5))})
    other = fo.SOAP({"w": np.ones((3, 5))}, max_precond_dim=4, backend=backend)
    with pytest.raises(ValueError, match=r"^state_dict\['groups'\]\[0\]: " + message.format(4, 5)):
        other.load_state_dict(opt.state_dict())


def test_rows_cannot_be_remapped() -> None:
    opt = fo.SOAP({"w": np.ones((3, 5))})
    with pytest.raises(ValueError, match=r"w.*: expected its rows as they are, as 'factors'"):
        opt.remap({"w": np.ones((2, 5))}, source={"w": np.array([0, 1])})
