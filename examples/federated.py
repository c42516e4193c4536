"""Train on the digits of several clients with Flower, with a fastoptim optimizer on the server.

Each client has images of a few digits only, and takes some steps of SGD from the server's parameters.  The server
treats the difference from the clients' average as a gradient, and takes one step of its optimizer: FedAvg with SGD of
rate 1, FedAvgM with momentum, FedAdam with Adam (Reddi et al., "Adaptive Federated Optimization", 2020,
arXiv:2003.00295), and the same with every other optimizer.

The server's part, `Federated`, is a strategy for any Flower application.  Here Flower's own loop runs it with clients
in this process, in place of a network.  It was tested with flwr 1.42.0.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from common import (
    Layers,
    batches,
    init,
    label_ends,
    look,
    loss_axes,
    make_parser,
    natural,
    panels,
    positive,
    save,
    table,
)
from digits import Digits, evaluate, gradients, load
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

# ---- the server's strategy


class Federated(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg with a step of a fastoptim optimizer in place of the average.

    `optimizer` and `options` are those of the server; the other arguments are FedAvg's.
    """

    def __init__(self, optimizer: type[fo.Optimizer], options: dict[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.optimizer, self.options = optimizer, options
        self.params: dict[str, Any] = {}
        self.opt: fo.Optimizer | None = None

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Grid) -> Any:
        if self.opt is None:
            self.params = {name: array.numpy().copy() for name, array in arrays.items()}
            self.opt = self.optimizer(self.params, **self.options)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        average, metrics = super().aggregate_train(server_round, replies)
        if average is None or self.opt is None:
            return average, metrics
        self.opt.step({name: self.params[name] - average[name].numpy() for name in self.params})
        return record_of(self.params), metrics


def record_of(params: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(p) for name, p in params.items()})


# ---- clients in this process

SERVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "FedAvg": ("sgd", {"lr": 1.0}),
    "FedAvgM": ("momentum", {"lr": 0.3, "momentum": 0.9, "form": "heavy_ball"}),
    "FedAdam": ("adam", {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-3}),
    "FedYogi": ("yogi", {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-3}),
}


class Clients(Grid):  # type: ignore[misc]
    """Flower's grid without a network: each node answers at once, in this process."""

    def __init__(self, shards: list[tuple[Any, Any]], rate: float, seed: int) -> None:
        self.shards, self.rate, self.seed = shards, rate, seed
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's run time sets it

    def get_node_ids(self) -> list[int]:
        return list(range(1, len(self.shards) + 1))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            number = message.metadata.dst_node_id
            arrays = {name: array.numpy().copy() for name, array in message.content["arrays"].items()}
            seed = [self.seed, number, message.content["config"]["server-round"]]
            x, y = self.shards[number - 1]
            trained = self.train(arrays, x, y, np.random.default_rng(seed))
            metrics = MetricRecord({"num-examples": len(y)})
            yield Message(RecordDict({"arrays": record_of(trained), "metrics": metrics}), reply_to=message)

    def train(self, arrays: dict[str, Any], x: Any, y: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Take one epoch of SGD on a client's images."""
        layers = layers_of(arrays)
        opt = fo.SGD(layers, lr=self.rate)
        for batch in batches(len(y), 16, rng):
            opt.step(gradients(layers, x[batch], y[batch]))
        return arrays

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    push_messages = pull_messages = create_message


def layers_of(arrays: dict[str, Any]) -> Layers:
    """Return the network of the named arrays."""
    return [{"w": arrays[f"{i}.w"], "b": arrays[f"{i}.b"]} for i in range(len(arrays) // 2)]


def shards_of(data: Digits, count: int) -> list[tuple[Any, Any]]:
    """Return the images sorted by digit in equal parts, so that each client has two or three digits."""
    order = np.argsort(data.y, kind="stable")
    return [(data.x[part], data.y[part]) for part in np.array_split(order, count)]


def federate(strategy: Any, data: Digits, args: Namespace, progress: tqdm) -> list[tuple[float, float]]:
    """Run Flower's loop, and return loss and accuracy on the test images before the first round and after each."""
    layers = init((64, 64, 10), np.random.default_rng(args.seed))
    results = []

    def evaluated(server_round: int, arrays: ArrayRecord) -> None:
        named = {name: array.numpy() for name, array in arrays.items()}
        results.append(evaluate(layers_of(named), data.test_x, data.test_y))
        progress.update(server_round > 0)

    first = {f"{i}.{name}": p for i, layer in enumerate(layers) for name, p in layer.items()}
    clients = Clients(shards_of(data, args.clients), rate=0.05, seed=args.seed)
    strategy.start(clients, record_of(first), num_rounds=args.rounds, evaluate_fn=evaluated)
    return results


def draw(results: dict[str, Any], args: Namespace) -> None:
    figure, axes = panels(2, 10.5, 4.8, f"{args.clients} clients with two or three digits each, by Flower")
    loss_axes(axes[0], "Cross-entropy on the test images", args.rounds)
    axes[1].set(title="Accuracy on the test images", xlim=(0, args.rounds), ylim=(0, 1))
    for k, panel in enumerate(axes):
        panel.set(xlabel="round")
        for i, result in enumerate(results.values()):
            panel.plot(result[:, k], linewidth=1.8, **look(i))
        label_ends(panel, [(name, result[:, k]) for name, result in results.items()])
    save(figure, args.output)


def parse() -> Namespace:
    parser = make_parser(__doc__, "federated.png")
    add = parser.add_argument
    add("--clients", type=positive, metavar="N", default=5, help="number of clients (default 5)")
    add("--rounds", type=positive, metavar="N", default=40, help="rounds of training (default 40)")
    add("--seed", type=natural, metavar="N", default=0, help="seed of weights and batches (default 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    data, results = load(), {}
    with tqdm(total=len(SERVERS) * args.rounds, unit="round") as progress:
        for name, (optimizer, options) in SERVERS.items():
            progress.set_description(name)
            strategy = Federated(fo.OPTIMIZERS[optimizer], options, fraction_evaluate=0.0)
            results[name] = np.array(federate(strategy, data, args, progress))
    rows = [(name, str(SERVERS[name]), f"{r[-1, 0]:.4f}", f"{r[-1, 1]:.4f}") for name, r in results.items()]
    print(table(("strategy", "optimizer of the server", "test loss", "test accuracy"), rows, text_columns=2))
    draw(results, args)


if __name__ == "__main__":
    main()
