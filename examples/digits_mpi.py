"""Train a network on scikit-learn's handwritten digits with several processes.

``mpiexec -n 4 python examples/digits_mpi.py`` starts four.  The network is deeper than that of digits.py.

A batch of 128 images has 8 parts of 16, which the processes share.  Each part's gradient is rounded to multiples of
2^-22: such numbers are added without rounding, so that their sum has the same bits in any order.  Any number of
processes then trains the same network, and process 0 compares it with one that a single optimizer trains by the sums.

The picture shows the losses, and how the optimizer's state is divided.  The example needs mpi4py and an MPI:
``pip install '.[examples,mpi]' mpich``.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from common import COLORS, Array, Layers, batches, init, look, loss_axes, make_parser, panels, positive, save
from digits import Digits, evaluate, gradients, load
from mpi4py import MPI
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

Indices: TypeAlias = npt.NDArray[np.signedinteger[Any]]

BATCH, PARTS = 128, 8
GRID = np.float32(2**22)
SIZES = (64, 128, 128, 128, 128, 10)


def arrays_of(layers: Layers) -> list[Array]:
    return [array for layer in layers for array in layer.values()]


def sum_of_parts(layers: Layers, data: Digits, batch: Indices, parts: Iterable[int]) -> Layers:
    """Return the sum of the rounded gradients of some parts of a batch."""
    total = [{name: np.zeros_like(array) for name, array in layer.items()} for layer in layers]
    for part in parts:
        images = batch[part::PARTS]
        grads = gradients(layers, data.x[images], data.y[images])
        for array, grad in zip(arrays_of(total), arrays_of(grads), strict=True):
            array += np.rint(grad * GRID) / GRID
    return total


def whole_batches(data: Digits, rng: np.random.Generator) -> Iterator[Indices]:
    return (batch for batch in batches(len(data.y), BATCH, rng) if len(batch) == BATCH)


def digest(layers: Layers) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays_of(layers))).hexdigest()[:16]


def draw(losses: Array, state_bytes: list[int], args: Namespace) -> None:
    figure, (left, right) = panels(2, 10.5, 4.2, f"Handwritten digits on {len(state_bytes)} processes", shares=(2, 1))
    loss_axes(left, "Cross-entropy", args.epochs)
    for i, name in enumerate(("training", "test")):
        left.plot(losses[:, i], label=name, linewidth=1.8, **look(i))
    left.legend(frameon=False)
    kilobytes = np.array(state_bytes) / 1000
    right.barh(range(len(kilobytes)), kilobytes, color=COLORS[0])
    right.set(title="State of AdamW by process", xlabel="kB", yticks=range(len(kilobytes)))
    right.invert_yaxis()
    save(figure, args.output)


def main() -> None:
    comm = MPI.COMM_WORLD
    parser = make_parser(__doc__, "digits_mpi.png")
    parser.add_argument("--epochs", type=positive, metavar="N", default=20, help="passes over the images (default 20)")
    args = parser.parse_args()
    data, is_first = load(), comm.rank == 0

    layers = init(SIZES, np.random.default_rng(0))
    opt = fo.distributed.Sharded(fo.AdamW, layers, comm, lr=3e-3, clip_global_norm=1.0, grad_scale=PARTS)
    alone = init(SIZES, np.random.default_rng(0))  # one process steps with the sums
    other = fo.AdamW(alone, lr=3e-3, clip_global_norm=1.0, grad_scale=PARTS)

    rng, losses = np.random.default_rng(1), []
    for _ in tqdm(range(args.epochs), unit="epoch", disable=not is_first):
        losses.append([evaluate(layers, data.x, data.y)[0], evaluate(layers, data.test_x, data.test_y)[0]])
        for batch in whole_batches(data, rng):
            opt.step(sum_of_parts(layers, data, batch, range(comm.rank, PARTS, comm.size)))
            if is_first:
                other.step(sum_of_parts(alone, data, batch, range(PARTS)))
    test_loss, accuracy = evaluate(layers, data.test_x, data.test_y)
    losses.append([evaluate(layers, data.x, data.y)[0], test_loss])
    own = sum(array.nbytes for layer in opt.state for state in layer.values() for array in state.values())
    state_bytes = comm.gather(own)
    opt.close()
    if is_first:
        print(f"{comm.size} processes: test accuracy {accuracy:.4f}, parameters {digest(layers)}")
        print(f"one process:  parameters {digest(alone)}")
        assert digest(layers) == digest(alone)
        draw(np.array(losses), state_bytes, args)


if __name__ == "__main__":
    main()
