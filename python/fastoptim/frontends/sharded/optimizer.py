"""The public class: an optimizer whose state is divided among ranks."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from ...arrays.checks import check_gradient, check_whole
from ...arrays.param_state import ParamState, check_targets
from ...arrays.tree import describe
from ...files import document, safetensors
from ...optimizer import checkpoint, saving
from ...optimizer.accumulation import ACCUMULATED, Accumulation, check_none_pending
from ...optimizer.base import Optimizer
from ...optimizer.groups import new_group, options_of
from ...options.checks import Positive, Whole, check_option
from ...options.suggestions import did_you_mean
from ...texts import brief
from . import state
from .buckets import buckets_of, owners_of
from .engine import ShardedEngine
from .links import Link, link_of
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
            optimizer = optimizer_class(params, **options)
            if optimizer.reduces_all and link.xp is not np:
                raise ValueError(f"{type(optimizer).__name__}: expected NumPy arrays, as its sums run over all ranks")
            _check_library(optimizer.param_states, link)
            peers.agree(repr((optimizer.name, _described(optimizer.param_states))))
        owners: list[int] = []
        self._peers, self._owners = peers, owners
        _divide(optimizer, owners, peers)
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

    def step(self, grads: Any = ACCUMULATED, *, accumulation: Accumulation = "mean") -> bool | None:
        """Update the parameters on every rank with the sum of the gradients; see `Optimizer.step`.

        An array for which some ranks have None takes the sum of the others.  Without `grads`, each rank sends the mean,
        or with ``accumulation="sum"`` the sum, of those that it has passed to `accumulate`.
        """
        with self._peers.together("step"):
            return self.optimizer.step(grads, accumulation=accumulation)

    def accumulate(self, grads: Any) -> None:
        """Add local gradients to a sum of this rank, which ``step()`` without gradients sends; see `Optimizer`.

        Call it as often on every rank.  State dicts do not contain the sums: `state_dict` raises RuntimeError as long
        as one waits for its step.
        """
        with self._peers.together("accumulate"):
            optimizer = self.optimizer
            optimizer.check_not_swapped()
            written = check_targets(optimizer.param_states)
            flat = optimizer._structure.match(grads, "grads")
            for param, grad in zip(optimizer.param_states, flat, strict=True):
                check_whole(grad, param.g_place)
                if grad is not None:
                    written.check_no_overlap(check_gradient(grad, param.g_place, param.metadata), param.g_place)
            self._peers.agree()
            with self._peers.exchanging():  # an error here would leave the ranks with different sums
                optimizer.accumulate(grads)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group, equal on every rank; see `Optimizer.add_param_group`.

        Its arrays go to the ranks with the least state so far.
        """
        peers, optimizer = self._peers, self.optimizer
        with peers.together("add_param_group"):
            new = self._checked_group(param_group)
            options = {name: value for name, value in options_of(param_group).items() if not callable(value)}
            peers.agree(repr((_described(new), sorted(options.items()))))
            self._check_equal(new)
            with peers.exchanging():  # an error here would leave the ranks with different groups
                optimizer.add_param_group(param_group)
                _divide(optimizer, self._owners, peers)

    def _checked_group(self, group: Mapping[str, Any]) -> Sequence[ParamState]:
        """Return the parameters of a group that can be added, or raise an error."""
        optimizer = self.optimizer
        optimizer.check_not_swapped()
        check_none_pending(optimizer, "add_param_group")
        if not (isinstance(group, Mapping) and "params" in group):
            raise TypeError(f"param_group: expected a dict with 'params', got {describe(group)}")
        options, index = optimizer._constructed_with, len(optimizer._trees)
        rule, own = optimizer.formula_of(group)
        new = new_group(optimizer, rule, index, own, options, grouped=True).param_states
        _check_library(new, self._peers.link)
        check_targets([*optimizer.param_states, *new])
        return new

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
            check_none_pending(self.optimizer, "state_dict")
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
            self._check_equal(self.optimizer.param_states)

    def _check_equal(self, param_states: Sequence[ParamState]) -> None:
        """Raise RuntimeError, on every rank, if a parameter differs between ranks; after an agreement."""
        peers = self._peers
        rows: Any = np.zeros((peers.size, len(param_states)))
        rows[peers.rank] = [digest(_bytes_of(param)) for param in param_states]
        with peers.exchanging():
            rows = peers.link.all_sum(rows.reshape(-1)).reshape(rows.shape)
        differ = np.argwhere((rows != rows[0]).T)
        if len(differ):
            i, rank = differ[0]
            raise RuntimeError(
                f"{param_states[i].p_place}: expected the same bits on every rank, got others on rank {rank}; send "
                f"them from one rank to all first, as with comm.Bcast"
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


def _check_library(param_states: Sequence[ParamState], link: Link) -> None:
    """Raise TypeError for an array of another library than the communicator's."""
    for param in param_states:
        if not isinstance(param.p, link.xp.ndarray):
            expected = f"an array of {link.xp.__name__} with this communicator"
            raise TypeError(f"{param.p_place}: expected {expected}, got {describe(param.p)}")


def _described(param_states: Sequence[ParamState]) -> list[Any]:
    """Return what has to be equal on every rank."""
    return [(param.place, str(param.metadata.dtype), param.metadata.shape) for param in param_states]


def _divide(optimizer: Optimizer, owners: list[int], peers: Peers) -> None:
    """Give the parameters that have no owner yet to the ranks, and drop the state of those of other ranks."""
    sizes = [param.metadata.nbytes for param in optimizer.param_states]
    owners += owners_of(sizes[len(owners) :], peers.size, zip(owners, sizes, strict=False))
    optimizer.param_states[:] = [
        param if owner == peers.rank else replace(param, state={}, is_remote=True)
        for param, owner in zip(optimizer.param_states, owners, strict=True)
    ]
    optimizer._engine = None
    peers.count = len(owners)


def _bytes_of(param: ParamState) -> Any:
    return safetensors.bytes_of(param.family.to_numpy(param.p))


__all__: Sequence[str] = ["Sharded"]
