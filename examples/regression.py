"""Train two small ReLU networks on synthetic data with Adam in mini-batches.

A 10-5-1 network fits a smooth function of ten numbers by mean squared error, with learning rate 0.01.  A 10-50-1
network classifies points by their side of a curved surface, by binary cross-entropy, with learning rate 0.001.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from common import (
    Array,
    backward,
    batches,
    forward,
    init,
    look,
    loss_axes,
    make_parser,
    natural,
    panels,
    positive,
    save,
    table,
    update,
)
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo


@dataclass
class Task:
    """A network, its data and its loss; `loss` returns the mean loss and its derivative by the outputs."""

    title: str
    hidden: int
    lr: float
    loss: Callable[[Array, Array], tuple[float, Array]]
    score_name: str
    score: Callable[[Array, Array], float]
    x: Array
    y: Array
    test_x: Array
    test_y: Array
    losses: list[float] = field(default_factory=list)
    result: float = 0.0


def squared_error(outputs: Array, y: Array) -> tuple[float, Array]:
    difference = outputs - y
    return float((difference**2).mean()), 2 * difference / np.float32(y.size)


def binary_cross_entropy(logits: Array, y: Array) -> tuple[float, Array]:
    """Return the mean of log(1 + exp(z)) - y*z, and its derivative (sigmoid(z) - y) / size, without overflow.

    logaddexp(0, z) is log(1 + exp(z)) for any z, and the sigmoid is (1 + tanh(z/2)) / 2.
    """
    sigmoid = (1 + np.tanh(logits / 2)) / 2
    return float((np.logaddexp(0, logits) - y * logits).mean()), (sigmoid - y) / np.float32(y.size)


def r_squared(outputs: Array, y: Array) -> float:
    """Return the share of the variance that the outputs explain."""
    return 1 - float(((outputs - y) ** 2).mean() / y.var())


def accuracy(logits: Array, y: Array) -> float:
    return float(((logits > 0) == (y > 0.5)).mean())


def make_tasks(seed: int, count: int = 1000, test_count: int = 1000) -> list[Task]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count + test_count, 10)).astype(np.float32)
    direction, other = rng.standard_normal((2, 10, 1)).astype(np.float32) / np.float32(np.sqrt(10))
    noise = rng.standard_normal((len(x), 1)).astype(np.float32)
    smooth = x @ direction + np.abs(x @ other) + 0.1 * noise
    side = (x @ direction + (x @ other) ** 2 + 0.1 * noise > 0.8).astype(np.float32)

    def split(y: Array) -> tuple[Array, Array, Array, Array]:
        return x[:count], y[:count], x[count:], y[count:]

    return [
        Task("10-5-1, mean squared error", 5, 0.01, squared_error, "R squared", r_squared, *split(smooth)),
        Task("10-50-1, binary cross-entropy", 50, 0.001, binary_cross_entropy, "accuracy", accuracy, *split(side)),
    ]


def train(task: Task, args: Namespace, progress: tqdm) -> None:
    """Train, and print the mean loss over the batches of the first and of every tenth epoch."""
    rng = np.random.default_rng(args.seed)
    layers = init((10, task.hidden, 1), rng)
    opt = fo.Adam(layers, lr=task.lr)
    for epoch in range(1, args.epochs + 1):
        total = 0.0
        for batch in batches(len(task.x), args.batch_size, rng):
            x, y = task.x[batch], task.y[batch]
            activations = forward(layers, x)
            loss, error = task.loss(activations[-1], y)
            update(opt, partial(backward, layers, activations, error))
            total += loss * len(batch)
        task.losses.append(total / len(task.x))
        if epoch == 1 or epoch % 10 == 0:
            tqdm.write(f"Epoch [{epoch}/{args.epochs}], Loss: {task.losses[-1]:.4f}")
        progress.update()
    task.result = task.score(forward(layers, task.test_x)[-1], task.test_y)


def report(tasks: list[Task]) -> str:
    text: str = table(
        ("network and loss", "optimizer", "first epoch", "last epoch", "on test data"),
        [
            (
                task.title,
                f"adam, lr {task.lr}",
                f"{task.losses[0]:.4f}",
                f"{task.losses[-1]:.4f}",
                f"{task.score_name} {task.result:.4f}",
            )
            for task in tasks
        ],
        text_columns=2,
    )
    return text


def draw(tasks: list[Task], args: Namespace) -> None:
    figure, row = panels(len(tasks), 9.5, 4.2, "Two small networks trained with Adam")
    for i, (axes, task) in enumerate(zip(row, tasks, strict=True)):
        axes.plot(range(1, args.epochs + 1), task.losses, linewidth=2, **look(i))
        loss_axes(axes, task.title, args.epochs)
        axes.set_ylabel("training loss")
    save(figure, args.output)


def parse() -> Namespace:
    parser: ArgumentParser = make_parser(__doc__, "regression.png")
    add = parser.add_argument
    add("--epochs", type=positive, metavar="N", default=100, help="passes over the data (default 100)")
    add("--batch-size", type=positive, metavar="N", default=32, help="points per step (default 32)")
    add("--seed", type=natural, metavar="N", default=0, help="seed of the data, the weights and the order (default 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    tasks = make_tasks(args.seed)
    with tqdm(total=len(tasks) * args.epochs, unit="epoch") as progress:
        for task in tasks:
            tqdm.write(f"{task.title}:")
            progress.set_description(task.title)
            train(task, args, progress)
            tqdm.write("")
    print(report(tasks))
    draw(tasks, args)


if __name__ == "__main__":
    main()
