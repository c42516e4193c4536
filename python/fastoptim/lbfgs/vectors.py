"""Vectors over all parameters, and the passes of L-BFGS over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from ..arrays.cuda_families import ArrayMetadata
from ..arrays.families import ArrayFamily, in_numpy
from ..arrays.numpy_family import NUMPY
from ..arrays.param_state import ParamState
from ..engines.base import GroupStep, PartEngine
from ..engines.select import engine_for
from ..norms import global_norm
from ..optimizer.base import Optimizer
from ..options.settings import Settings
from ..reference_math import Array, compute_dtype, norm_in_order
from ..reference_math import norm as reference_norm
from .passes import Add, AddFour, AddPair, Dot, Dots, Scale

PIECE = 1 << 15  # elements: a multiple of the tile of sums, so that only a block's last piece has a partial one


@dataclass(frozen=True, eq=False)
class Vector:
    """One number for each element of every parameter, in the compute type: a flat array for each such type."""

    blocks: list[Any]
    parts: list[Any] = field(repr=False)
    """Views of the blocks, one in the shape of each parameter."""
    pieces: list[Any] = field(repr=False)
    """Views of the blocks, of a size that stays in a cache."""


class Pair(NamedTuple):
    """A step s and the change y of the gradient along it."""

    s: Vector
    y: Vector


class _Prepared(NamedTuple):
    """An engine with its settings, the scalar state of its first array, and the arrays whose ids it is found by."""

    engine: PartEngine
    settings: Settings
    scalars: list[Any]
    arrays: Any


class VectorSpace:
    """Vectors of the size of all parameters together, and their arithmetic on a backend."""

    def __init__(self, backend: str, param_states: Sequence[ParamState]) -> None:
        self._backend = backend
        self._params = [param.p for param in param_states]
        first = param_states[0].p
        self._is_gpu = isinstance(param_states[0].metadata, ArrayMetadata)
        if not self._is_gpu:  # of any library of the CPU
            self._params = [in_numpy(p) for p in self._params]
            first = self._params[0]
        self._family: ArrayFamily = NUMPY if isinstance(first, np.ndarray) else param_states[0].family
        self._like = first
        self._shapes = [param.metadata.shape for param in param_states]
        dtypes = [compute_dtype(param.metadata.dtype) for param in param_states]
        self.block_dtypes = list(dict.fromkeys(dtypes))
        self.block_sizes = [0] * len(self.block_dtypes)
        self._places: list[tuple[int, int]] = []
        for shape, dtype in zip(self._shapes, dtypes, strict=True):
            block = self.block_dtypes.index(dtype)
            self._places.append((block, self.block_sizes[block]))
            self.block_sizes[block] += math.prod(shape)
        self._engines: dict[tuple[Any, ...], _Prepared] = {}
        self._dots: _Prepared | None = None
        self._dots_of: Sequence[Pair] | None = None  # the pairs of these products
        self._point: Vector | None = None  # of parameters in another memory order

    @property
    def nbytes(self) -> int:
        """The bytes of one vector."""
        return sum(n * dtype.itemsize for n, dtype in zip(self.block_sizes, self.block_dtypes, strict=True))

    def new(self) -> Vector:
        """Return a vector of zeros."""
        blocks = [
            self._family.full(self._like, (size,), 0.0, dtype)
            for size, dtype in zip(self.block_sizes, self.block_dtypes, strict=True)
        ]
        parts = [
            blocks[block][begin : begin + math.prod(shape)].reshape(shape)
            for (block, begin), shape in zip(self._places, self._shapes, strict=True)
        ]
        pieces = [
            block[begin : begin + PIECE]
            for block, size in zip(blocks, self.block_sizes, strict=True)
            for begin in range(0, max(size, 1), PIECE)
        ]
        return Vector(blocks, parts, pieces)

    def forget(self) -> None:
        """Release the engines, which keep vectors that are no longer used."""
        self._engines.clear()
        self._dots = self._dots_of = None

    def gather(self, vector: Vector, arrays: Sequence[Any]) -> None:
        """Assign arrays of the parameters' shapes to a vector, zeros for None."""
        for part, array in zip(vector.parts, arrays, strict=True):
            if array is None:
                array = 0.0
            elif self._family is NUMPY and not isinstance(array, np.generic):  # a scalar is a 0-d gradient
                array = in_numpy(array)
            self._family.assign(part, array)

    def gather_params(self, vector: Vector) -> None:
        """Assign the parameters to a vector."""
        self.gather(vector, self._params)

    def scatter_params(self, vector: Vector) -> None:
        """Assign a vector to the parameters, rounded to their dtypes."""
        for p, part in zip(self._params, vector.parts, strict=True):
            self._family.assign(p, part)

    def to_numpy(self, vector: Vector) -> list[Array]:
        """Return a copy of the part of each parameter."""
        return [self._family.to_numpy(part) for part in vector.parts]

    def assign(self, vector: Vector, parts: Sequence[Any]) -> None:
        """Assign NumPy arrays to the parts."""
        for part, source in zip(vector.parts, parts, strict=True):
            self._family.assign(part, source)

    def scale(self, out: Vector, factor: float, x: Vector) -> None:
        """``out = factor*x``."""
        self._update(self._engine(Scale, out.blocks), x.blocks, factor)

    def add(self, out: Vector, x: Vector, factor: float, y: Vector) -> None:
        """``out = x + factor*y``."""
        self._update(self._engine(Add, out.blocks, x=x.blocks), y.blocks, factor)

    def move_params(self, x: Vector, factor: float, y: Vector) -> None:
        """Assign ``x + factor*y`` to the parameters, rounded to their dtypes."""
        if all(_is_c_contiguous(p) for p in self._params):
            self._update(self._engine(Add, self._params, x=x.parts), y.parts, factor)
            return
        if self._point is None:
            self._point = self.new()
        self.add(self._point, x, factor, y)
        self.scatter_params(self._point)

    def add_pairs(self, out: Vector, pairs: Sequence[Pair], factors: Sequence[tuple[float, float]]) -> None:
        """``out += y_factor*y + s_factor*s`` for each pair with its factors of s and y, one after another."""
        begin = 0
        while begin < len(pairs):
            count = 4 if len(pairs) - begin >= 4 else 1
            state: dict[str, list[Any]] = {}
            constants: dict[str, float] = {}
            for i, (pair, (s_factor, y_factor)) in enumerate(
                zip(pairs[begin : begin + count], factors[begin : begin + count], strict=True)
            ):
                if i:
                    state[f"y{i}"], constants[f"y{i}_factor"] = pair.y.blocks, y_factor
                state[f"s{i}"], constants[f"s{i}_factor"] = pair.s.blocks, s_factor
            engine = self._engine(AddFour if count == 4 else AddPair, out.blocks, **state)
            self._update(engine, pairs[begin].y.blocks, factors[begin][1], constants)
            begin += count

    def dot(self, x: Vector, y: Vector) -> float:
        """Return the inner product."""
        return self._sums(self._engine(Dot, x.blocks), y.blocks)[0]

    def dots(self, pairs: Sequence[Pair], used: Sequence[bool], g: Vector) -> list[tuple[float, ...]]:
        """Return the inner products of s and y with g for each pair that is used, zeros for the others.

        On the CPU, a piece of g is multiplied with all pairs before the next piece, so that it stays in a cache.
        """
        if self._is_gpu:
            engines = [self._engine(Dots, pair.s.pieces, y=pair.y.pieces) for pair in pairs]
            each = zip(engines, used, strict=True)
            return [self._sums(engine, g.pieces) if is_used else (0.0, 0.0) for engine, is_used in each]
        if self._dots_of is not pairs or self._dots is None:
            s, y = (_interleaved([vector.pieces for vector in of_pairs]) for of_pairs in zip(*pairs, strict=True))
            self._dots, self._dots_of = self._engine(Dots, s, y=y), pairs
        grads = [piece if is_used else None for piece in g.pieces for is_used in used]
        sums = self._dots.engine.rule_sums(grads, [GroupStep(self._dots.settings, 1.0, 1)])
        return [_add_in_order(sums[i :: len(pairs)]) for i in range(len(pairs))]

    def norm(self, x: Vector, norm_type: float) -> float:
        """Return the norm of type 1, 2 or inf."""
        if self._backend == "native":
            return global_norm(x.blocks, norm_type)
        return norm_in_order([reference_norm(block, norm_type) for block in x.blocks], norm_type)

    def _update(
        self, engine: _Prepared, grads: Sequence[Any], factor: float, constants: dict[str, float] | None = None
    ) -> None:
        engine.engine.step(list(grads), [GroupStep(engine.settings, factor, 1, 1.0, constants or {})])

    def _sums(self, engine: _Prepared, grads: Sequence[Any]) -> tuple[float, ...]:
        """Return the sums of a rule over all arrays, which a GPU leaves in the scalar state of the first."""
        group_steps = [GroupStep(engine.settings, 1.0, 1)]
        if not self._is_gpu:
            return _add_in_order(engine.engine.rule_sums(list(grads), group_steps))
        engine.engine.step(list(grads), group_steps)
        return tuple(float(self._family.to_numpy(array)) for array in engine.scalars)

    def _engine(self, kind: type[Optimizer], p: Sequence[Any], **state: Sequence[Any]) -> _Prepared:
        """Return an engine for these arrays; one of the same arrays is made once."""
        key = (kind, id(p[0]), *(id(arrays[0]) for arrays in state.values()))
        if key not in self._engines:
            params = [
                ParamState(
                    array,
                    {name: arrays[i] for name, arrays in state.items()},
                    schema=kind.state_schema,
                    p_place="vector",
                )
                for i, array in enumerate(p)
            ]
            names = [name for name in kind.state if kind.state_schema[name].is_scalar]
            for param in params:
                param.state.update({name: param.allocate(name) for name in names})
            engine = engine_for(self._backend, params)
            scalars = [params[0].state[name] for name in names]
            self._engines[key] = _Prepared(engine, kind.check_options({}), scalars, (p, state))
        return self._engines[key]


def _add_in_order(sums: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(reduce(add, of_arrays, 0.0) for of_arrays in zip(*sums, strict=True))


def _interleaved(lists: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the first entry of each list, then the second ones, and so on."""
    return [entry for entries in zip(*lists, strict=True) for entry in entries]


def _is_c_contiguous(p: Any) -> bool:
    if hasattr(p, "is_contiguous"):  # a tensor
        return bool(p.is_contiguous())
    return bool(p.flags.c_contiguous)
