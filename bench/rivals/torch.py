"""PyTorch: its fused and its foreach steps, and eager operations for what it does not have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .base import Array, Offer, Options, Peer

OPTIMIZERS = {
    "adam": Offer("Adam"),
    "adamw": Offer("AdamW"),
    "sgd": Offer("SGD"),
    "adagrad": Offer("Adagrad"),
    "rmsprop": Offer("RMSprop"),
    "adamax": Offer("Adamax"),
    "nadam": Offer("NAdam"),
    "radam": Offer("RAdam"),
    "adadelta": Offer("Adadelta"),
    "rprop": Offer("Rprop"),
}
FUSED = ("adam", "adamw", "sgd", "adagrad")  # on a CPU


class Stepped:
    """Tensors in NumPy's memory, and what steps them."""

    def __init__(
        self, make: Callable[[list[Any]], Callable[[], object]], params: Sequence[Array], grads: Sequence[Array]
    ) -> None:
        import torch

        self._tensors = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
        for tensor, g in zip(self._tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(g.copy())
        self.step = make(self._tensors)

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these gradients."""
        import torch

        for tensor, g in zip(self._tensors, grads, strict=True):
            tensor.grad.copy_(torch.from_numpy(g))

    def params(self) -> list[Array]:
        """The live parameters."""
        return [tensor.detach().numpy() for tensor in self._tensors]


class Torch(Peer):
    """What its three ways have in common."""

    package = "torch"

    def use(self, threads: int) -> None:
        """Its intra-operation threads."""
        import torch

        torch.set_num_threads(threads)

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Stepped:
        """Tensors over copies of the arrays."""
        return Stepped(lambda tensors: self.stepper(self.offers[optimizer], options, tensors), params, grads)

    @abstractmethod
    def stepper(self, offer: Offer, options: Options, tensors: list[Any]) -> Callable[[], object]:
        """What steps these tensors."""


class TorchFused(Torch):
    """One kernel an array for the whole update."""

    name = "torch fused"
    about = "torch.optim.X(tensors, fused=True).step()"
    offers = {name: offer for name, offer in OPTIMIZERS.items() if name in FUSED}

    def stepper(self, offer: Offer, options: Options, tensors: list[Any]) -> Callable[[], object]:
        """Its optimizer's own step."""
        import torch

        return getattr(torch.optim, offer.theirs)(tensors, fused=True, **options).step  # type: ignore[no-any-return]


class TorchForeach(Torch):
    """A kernel for each operation."""

    name = "torch foreach"
    about = "torch.optim.X(tensors, foreach=True).step()"
    offers = OPTIMIZERS

    def stepper(self, offer: Offer, options: Options, tensors: list[Any]) -> Callable[[], object]:
        """Its optimizer's own step."""
        import torch

        return getattr(torch.optim, offer.theirs)(tensors, foreach=True, **options).step  # type: ignore[no-any-return]


class TorchEager(Torch):
    """Lion as the lion-pytorch package writes it, operation by operation, and in place where that can be."""

    name = "torch eager"
    about = "Lion's update in torch operations, as in lion-pytorch"
    offers = {"lion": Offer("Lion")}

    def stepper(self, offer: Offer, options: Options, tensors: list[Any]) -> Callable[[], object]:
        """The loop over the tensors."""
        import torch

        lr, (beta1, beta2) = options["lr"], options["betas"]
        means = [torch.zeros_like(tensor) for tensor in tensors]

        def step() -> None:
            with torch.no_grad():
                for p, m in zip(tensors, means, strict=True):
                    update = m.clone().mul_(beta1).add_(p.grad, alpha=1 - beta1).sign_()
                    p.add_(update, alpha=-lr)
                    m.mul_(beta2).add_(p.grad, alpha=1 - beta2)

        return step
