"""The pairs of L-BFGS, and the direction from them: the two-loop recursion on inner products.

The recursion needs only inner products of the pairs' vectors with each other and with the gradient.  With a table of
those of the pairs, each iteration reads every vector twice: once for its products with the gradient and the newest
pair, once for the direction, a linear combination.  Step by step as in the book, an inner product and an update for
each pair and loop, every vector is read twice and the intermediate result four times for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .vectors import Pair, Vector, VectorSpace

#: The least curvature y's of a pair that is kept, as in PyTorch.
LEAST_CURVATURE = 1e-10


class History:
    """The newest pairs, the inner products of their vectors, and the direction that follows from them.

    A pair has a slot, an index into the tables.  There is one slot more than pairs: the newest pair is computed before
    it is known to replace the oldest.
    """

    def __init__(self, space: VectorSpace, size: int) -> None:
        self._space = space
        self.size = size
        self._pairs: list[Pair] = []  # one for each slot, as soon as there is one
        self._order: list[int] = []  # slots from the oldest pair to the newest
        self._sy = np.zeros((size + 1, size + 1))  # s of the row, y of the column, which is not older
        self._yy = np.zeros((size + 1, size + 1))
        self._products = np.zeros((size + 1, 2))  # of s and y with the gradient at the last direction
        self._newest: int | None = None  # the slot whose products with the others are not in the tables yet
        self.scale = 1.0  # of the first approximation of the inverse Hessian

    def __len__(self) -> int:
        return len(self._order)

    @property
    def vectors(self) -> int:
        """The number of vectors that it has allocated."""
        return 2 * len(self._pairs)

    def _allocate(self) -> None:
        if not self._pairs:
            self._pairs = [Pair(self._space.new(), self._space.new()) for _ in range(self.size + 1)]

    def remember(self, direction: Vector, t: float, g: Vector, g_before: Vector) -> None:
        """Add the pair of a step of length t and the gradients at its ends, if its curvature is positive.

        `g_before` is the gradient of the last call of `direct`.
        """
        self._allocate()
        slot = next(i for i in range(self.size + 1) if i not in self._order)
        pair = self._pairs[slot]
        self._space.scale(pair.s, t, direction)
        self._space.add(pair.y, g, -1.0, g_before)
        curvature, norm = self._space.dot(pair.y, pair.s), self._space.norm(pair.y, 2)
        square = norm * norm
        if not (LEAST_CURVATURE < curvature < math.inf and 0 < square < math.inf):
            return
        self._order = [*self._order, slot][-self.size :]
        self._sy[slot, slot], self._yy[slot, slot] = curvature, square
        self.scale = curvature / square
        self._newest = slot

    def direct(self, direction: Vector, g: Vector) -> None:
        """Assign the negative gradient times the approximate inverse Hessian."""
        self._space.scale(direction, -self.scale, g)
        if not self._order:
            return
        products = self._space.dots(self._pairs, [slot in self._order for slot in range(self.size + 1)], g)
        if self._newest is not None:
            self._enter(self._newest, products)
        self._newest, self._products[:] = None, products
        factors = self._factors(products)
        pairs = [self._pairs[slot] for slot in self._order]
        self._space.add_pairs(direction, pairs, [factors[slot] for slot in self._order])

    def _enter(self, newest: int, products: Sequence[tuple[float, ...]]) -> None:
        """Enter the products with y of the newest pair in the tables: differences of those with two gradients."""
        for slot in self._order:
            if slot != newest:
                s_y, y_y = (after - before for after, before in zip(products[slot], self._products[slot], strict=True))
                self._sy[slot, newest] = s_y
                self._yy[slot, newest] = self._yy[newest, slot] = y_y

    def _factors(self, products: Sequence[tuple[float, ...]]) -> dict[int, tuple[float, float]]:
        """Return the factors of s and y of each pair in the direction, from the oldest pair to the newest."""
        sy, yy = self._sy.tolist(), self._yy.tolist()
        alphas: dict[int, float] = {}
        for i in reversed(self._order):
            s_q = -products[i][0]
            for j, alpha in alphas.items():
                s_q -= alpha * sy[i][j]
            alphas[i] = s_q / sy[i][i]
        factors: dict[int, tuple[float, float]] = {}
        for i in self._order:
            y_q = -products[i][1]
            for j, alpha in alphas.items():
                y_q -= alpha * yy[i][j]
            y_r = self.scale * y_q
            for j, (s_factor, _) in factors.items():
                y_r += s_factor * sy[j][i]
            factors[i] = alphas[i] - y_r / sy[i][i], -self.scale * alphas[i]
        return factors

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs, from the oldest to the newest, with their inner products and the scale."""
        at = np.ix_(self._order, self._order)
        return {
            "s": [self._space.to_numpy(self._pairs[slot].s) for slot in self._order],
            "y": [self._space.to_numpy(self._pairs[slot].y) for slot in self._order],
            "sy": self._sy[at],
            "yy": self._yy[at],
            "products": self._products[self._order],
            "scale": self.scale,
        }

    def resized(self, size: int) -> History:
        """Return a history of another size with the newest pairs, which it copies."""
        other, kept = History(self._space, size), self.state_dict()
        newest = slice(max(0, len(self) - size), None)
        for name in ("s", "y", "products"):
            kept[name] = kept[name][newest]
        for name in ("sy", "yy"):
            kept[name] = kept[name][newest, newest]
        other.restore(kept)
        return other

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Assign what `state_dict` has returned, checked, to an empty history."""
        self._order = list(range(len(saved["s"])))
        self.scale = float(saved["scale"])
        if not self._order:
            return
        self._allocate()
        for pair, own_s, own_y in zip(self._pairs, saved["s"], saved["y"], strict=False):
            self._space.assign(pair.s, own_s)
            self._space.assign(pair.y, own_y)
        at = np.ix_(self._order, self._order)
        self._sy[at], self._yy[at], self._products[self._order] = saved["sy"], saved["yy"], saved["products"]
