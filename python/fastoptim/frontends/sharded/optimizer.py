"""The public class: an optimizer whose state is divided among ranks."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ...arrays.param_state import ParamState
from ...arrays.tree import describe
from ...files import document, safetensors
from ...optimizer import checkpoint, saving
from ...optimizer.base import Optimizer
from ...options.checks import Positive, Whole, check_option
from ...options.suggestions import did_you_mean
from ...texts import brief
from . import state
from .buckets import buckets_of, owners_of
from .engine import ShardedEngine
from .links import link_of
from .peers import Peers, digest


class Sharded:
    """An optimizer on several processes: each array has one owner, which keeps its state and updates it.

    Every rank has all parameters, and calls the same methods in the same order.  `step` takes local gradients; their
    sum goes to the owner, which takes the step, and the new parameter goes to all ranks.  Communication is as much as
    that of an all-reduce, and state takes its size divided by the number of ranks.

    Arrays are divided whole: the largest first, to the rank with the least so far.  So every sum over an array is
    computed by one process, and the norm of all gradients is added in the arrays' order.  Given equal sums of the
    gradients, which the communicator adds, the update has the bits of one process, for any number of ranks.
    Divide by the number of ranks with ``grad_scale=comm.size`` for the mean.

    An error on one rank before arrays are exchanged, such as a gradient of a wrong shape, is an error on all: its own
    there, a RuntimeError that quotes it on the others.  Nothing has changed, and all may continue.  An error during
    the exchange, and a rank that leaves, end in a RuntimeError on all, too, after which only a new optimizer helps.

    Args:
        optimizer_class: The class of the optimizer, such as ``fo.AdamW``.
        params: The parameters, as for that class; equal on every rank, which is checked.
        comm: A communicator of mpi4py with NumPy arrays, or ``cupyx.distributed.NCCLBackend`` with CuPy arrays.
        timeout: The number of seconds to wait for another rank, after which TimeoutError is raised; None for no limit.
        **options: The options of the class.

    Raises:
        TypeError: `optimizer_class` is not a class of an optimizer, `comm` not a communicator, or `params` has arrays
            of another library than the communicator's.
        ValueError: An option or `timeout` is out of range.
        RuntimeError: Another rank has raised an error, or has other parameters or options.

    With MPI, in a program that ``mpiexec -n 4 python`` starts::

        from mpi4py import MPI
        opt = fo.distributed.Sharded(fo.AdamW, params, MPI.COMM_WORLD, lr=1e-3)
        opt.step(grads)

    Attributes, options and groups are those of the optimizer; assign the same on every rank.  `state` has empty dicts
    in the places of arrays that other ranks own.
    """

    def __init__(
        self, optimizer_class: type[Optimizer], params: Any, comm: Any, *, timeout: float | None = None, **options: Any
    ) -> None:
        link = link_of(comm)
        peers = Peers(link)
        with peers.together("Sharded"):
            link.limit_waiting(check_option(Positive | None, timeout, "timeout"))
            if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
                expected = "the class of an optimizer, such as fastoptim.AdamW"
                raise TypeError(f"optimizer_class: expected {expected}, got {brief(optimizer_class)}")
            if options.get("copies") is not None:
                raise ValueError(f"copies: expected None, as only owners step an array, got {brief(options['copies'])}")
            optimizer = optimizer_class(params, **options)
            metadata = [param.metadata for param in optimizer.param_states]
            if optimizer.reduces_all and link.xp is not np:
                raise ValueError(f"{type(optimizer).__name__}: expected NumPy arrays, as its sums run over all ranks")
            for param in optimizer.param_states:
                if not isinstance(param.p, link.xp.ndarray):
                    expected = f"an array of {link.xp.__name__} with this communicator"
                    raise TypeError(f"{param.p_place}: expected {expected}, got {describe(param.p)}")
            places = [
                (param.place, str(param.metadata.dtype), param.metadata.shape) for param in optimizer.param_states
            ]
            peers.agree(repr((optimizer.name, places)))
        peers.count = len(metadata)
        owners = owners_of([p.nbytes for p in metadata], link.size)
        optimizer.param_states[:] = [
            param if owner == link.rank else replace(param, state={}, is_remote=True)
            for param, owner in zip(optimizer.param_states, owners, strict=True)
        ]
        self._peers, self._owners = peers, owners
        engine_for = optimizer.engine_for
        vars(optimizer)["engine_for"] = lambda param_states: ShardedEngine(param_states, owners, peers, engine_for)
        self.optimizer = optimizer
        weakref.finalize(self, peers.leave, "has left")
        self.check_synced()

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":
            raise AttributeError(name)
        try:
            return getattr(self.optimizer, name)
        except AttributeError as error:
            raise AttributeError(f"{error}{did_you_mean(name, self.optimizer.defaults)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if "optimizer" in vars(self) and not (name.startswith("_") or hasattr(type(self), name)):
            setattr(self.optimizer, name, value)
        else:
            object.__setattr__(self, name, value)

    @property
    def owners(self) -> list[int]:
        """The rank that owns each array, in their order."""
        return list(self._owners)

    def step(self, grads: Any) -> bool | None:
        """Update the parameters on every rank with the sum of the gradients; see `Optimizer.step`.

        An array for which some ranks have None takes the sum of the others.
        """
        with self._peers.together("step"):
            return self.optimizer.step(grads)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Raise TypeError: the owners are those of the arrays that the optimizer was made with."""
        raise TypeError("add_param_group: expected all parameters where the sharded optimizer is made; make a new one")

    def accumulate(self, grads: Any) -> None:
        """Raise TypeError: the sum of a rank's gradients would not be part of the state dict."""
        raise TypeError("accumulate: expected an optimizer of one process; add gradients before step, which sends them")

    def update_hessian(self, hessians: Any) -> bool | None:
        """Average the sum of the estimates; see `Sophia.update_hessian`."""
        with self._peers.together("update_hessian"):
            return self.optimizer.update_hessian(hessians)  # type: ignore[attr-defined,no-any-return]

    def lookahead(self) -> AbstractContextManager[None]:
        """Move the parameters to where the gradient should be evaluated; see `Optimizer.lookahead`."""
        return self._swapped("lookahead", self.optimizer.lookahead)

    def averaged(self) -> AbstractContextManager[None]:
        """Assign the averages to the parameters in the block; see `Optimizer.averaged`."""
        return self._swapped("averaged", self.optimizer.averaged)

    def eval(self) -> None:
        """Assign the averages to the parameters; see `ScheduleFreeSGD.eval`."""
        with self._peers.together("eval"):
            self.optimizer.eval()  # type: ignore[attr-defined]
            self._send_params()

    def train(self) -> None:
        """Restore the parameters; see `ScheduleFreeSGD.train`."""
        self.optimizer.train()  # type: ignore[attr-defined]

    def state_dict(self, root: int = 0) -> dict[str, Any] | None:
        """Return on root the state dict that one process would have, and None on the others."""
        with self._peers.together("state_dict"):
            root = self._checked_root(root)
            own = self.optimizer.state_dict()
            self._peers.agree(str(root))
            with self._peers.exchanging():
                return state.gather(self._peers.link, own, self._owners, root)

    def load_state_dict(self, state_dict: Mapping[str, Any] | None, *, root: int = 0, convert: bool = False) -> None:
        """Continue from the state dict on root, of any number of ranks or of one process; others may pass None."""
        peers = self._peers
        with peers.together("load_state_dict"):
            root = self._checked_root(root)
            if peers.rank == root:
                state.check_parts(state_dict)
            peers.agree(f"{root} {convert}")
            with peers.exchanging():
                places = {param.place: i for param, i in zip(self.optimizer.param_states, self._owners, strict=True)}
                own = state.scatter(peers.link, state_dict if peers.rank == root else None, places, root)
        with peers.together("load_state_dict"):
            self.optimizer.check_not_swapped()
            checkpoint.check(self.optimizer, own, convert)
            peers.agree()
            with peers.exchanging():  # an error here would leave the ranks with different states
                self.optimizer.load_state_dict(own, convert=convert)

    def save(self, path: str | os.PathLike[str], *, params: Any = None, root: int = 0, **numbers: Any) -> None:
        """Write a checkpoint from root, atomically and durably; see `fastoptim.save`."""
        saving.write(path, params, self, self.state_dict(root), numbers)

    def load(self, path: str | os.PathLike[str], *, root: int = 0, convert: bool = False) -> None:
        """Continue from a file that root reads, of `save` or of one process; see `Optimizer.load`."""
        saved = None
        with self._together("load"):
            if self._peers.rank == self._checked_root(root):
                saved = saving.state_dict_of(document.load(path), path)
        self.load_state_dict(saved, root=root, convert=convert)

    def check_synced(self) -> None:
        """Raise RuntimeError, on every rank, if a parameter or the step count differs between ranks."""
        peers = self._peers
        with peers.together("check_synced"):
            peers.agree(str(self.optimizer.step_count))
            own = [digest(_bytes_of(param)) for param in self.optimizer.param_states]
            rows: Any = np.zeros((peers.size, len(own)))
            rows[peers.rank] = own
            with peers.exchanging():
                rows = peers.link.all_sum(rows.reshape(-1)).reshape(rows.shape)
            differ = np.argwhere((rows != rows[0]).T)
            if len(differ):
                i, rank = differ[0]
                raise RuntimeError(
                    f"{self.optimizer.param_states[i].p_place}: expected the same bits on every rank, got others on "
                    f"rank {rank}; send them from one rank to all first, as with comm.Bcast"
                )

    def close(self) -> None:
        """End the connection on all ranks, whose communicator is then freed."""
        self._peers.close()

    @contextmanager
    def _together(self, call: str) -> Iterator[None]:
        """Run the block on every rank; an error on one is an error on all."""
        with self._peers.together(call):
            yield
            self._peers.agree()

    def _checked_root(self, root: int) -> int:
        return Whole(0, self._peers.size - 1).check(root, "root")

    @contextmanager
    def _swapped(self, call: str, swap: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        with ExitStack() as stack:
            with self._peers.together(call):
                stack.enter_context(swap())
                self._send_params()
            yield

    def _send_params(self) -> None:
        self._peers.agree()
        with self._peers.exchanging():
            buckets = buckets_of(self.optimizer.param_states, self._owners, self._peers.link)
            for request in [bucket.broadcast() for bucket in buckets]:
                request.wait()


def _bytes_of(param: ParamState) -> Any:
    return safetensors.bytes_of(param.family.to_numpy(param.p))


__all__: Sequence[str] = ["Sharded"]
