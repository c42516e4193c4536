"""numexpr: Adam in three compiled expressions, in blocks that fit the cache, over its threads."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Array, Offer, Options, Peer
from .scalars import adam_scalars
from .written import Written


class Expressions(Written):
    """Each expression is compiled once and writes into the array that it reads."""

    def __init__(self, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> None:
        import numexpr

        super().__init__(options, params, grads)
        self._mean, self._square, self._move = (
            numexpr.NumExpr(text, [(name, float) for name in names.split()])  # its name of float32
            for text, names in (
                ("keep*m + rise*g", "keep m rise g"),
                ("keep*v + rise*g*g", "keep v rise g"),
                ("p - rate*m / (sqrt(v) + eps)", "p rate m v eps"),
            )
        )

    def step(self) -> None:
        """One step."""
        self._step += 1
        s = adam_scalars(self._options, self._step)
        for p, g, m, v in zip(self._p, self._g, self._m, self._v, strict=True):
            self._mean(s.keep1, m, s.rise1, g, out=m, ex_uses_vml=False)
            self._square(s.keep2, v, s.rise2, g, out=v, ex_uses_vml=False)
            self._move(p, s.rate, m, v, s.eps, out=p, ex_uses_vml=False)


class NumExpr(Peer):
    """The update written by hand."""

    name = "numexpr"
    package = "numexpr"
    about = "Adam in three compiled expressions, each into the array that it replaces"
    offers = {"adam": Offer("Adam, by hand")}

    def use(self, threads: int) -> None:
        """The threads of its virtual machine."""
        import numexpr

        numexpr.set_num_threads(threads)

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Expressions:
        """Copies of the arrays."""
        return Expressions(options, params, grads)
