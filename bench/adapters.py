"""The peers of bench/peers.py: one function for each makes its step from NumPy arrays, in its fastest form.

`PEERS` lists them with the optimizers that they offer.  Nothing here imports a peer before its step is made, so a peer
that is not installed costs nothing.  Every function copies the arrays that it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module, metadata
from importlib.util import find_spec
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastoptim as fo

Array = npt.NDArray[np.float32]
Options = Mapping[str, Any]
Arrays = Sequence[Array]


class Stepper(NamedTuple):
    """A step over arrays of its own.  Only `step` is timed; it returns when the step is finished."""

    step: Callable[[], object]
    set_grads: Callable[[Iterable[Array]], object]
    params: Callable[[], list[Array]]


class Offer(NamedTuple):
    """One of our optimizers at a peer."""

    name: str  # theirs
    theirs: Options = {}  # the peer's further arguments
    ours: Options = {}  # the options by which our formula becomes theirs


@dataclass(frozen=True)
class Peer:
    """A library, or a way to write the update by hand."""

    name: str
    package: str
    about: str  # how a step is made
    make: Callable[[Offer, Options, Arrays, Arrays], Stepper]
    offers: Mapping[str, Offer]  # by our names
    needs: tuple[str, ...] = ()  # further packages

    def installed(self) -> bool:
        """Return whether it can be imported, without importing it."""
        return all(find_spec(package) for package in (self.package, *self.needs))

    def version(self) -> str:
        """Return the version of the installed package."""
        return metadata.version(self.package)


def copies(arrays: Iterable[Array]) -> list[Array]:
    return [array.copy() for array in arrays]


def overwrite(arrays: Arrays, values: Iterable[Array]) -> None:
    for array, value in zip(arrays, values, strict=True):
        np.copyto(array, value)


def renamed(options: Options, **names: str) -> dict[str, Any]:
    """Return the options by a peer's names; the parts of a pair have names of their own."""
    found: dict[str, Any] = {}
    for option, value in options.items():
        parts = names.get(option, option).split()
        found |= dict(zip(parts, value, strict=True)) if len(parts) > 1 else {parts[0]: value}
    return found


def make_ours(optimizer: str, options: Options, params: Arrays, grads: Arrays, backend: Any = "native") -> Stepper:
    """fastoptim itself; one array is passed as it is, several as a list."""
    own, given = copies(params), copies(grads)
    is_single = len(own) == 1
    opt = fo.OPTIMIZERS[optimizer](own[0] if is_single else own, backend=backend, **options)
    step: Callable[[], object] = partial(opt.step, given[0] if is_single else given)
    return Stepper(step, partial(overwrite, given), lambda: own)


# ---- PyTorch


def make_torch(offer: Offer, options: Options, params: Arrays, grads: Arrays, **how: Any) -> Stepper:
    """Tensors over copies of the arrays; `how` selects PyTorch's implementation."""
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in copies(params)]
    given = copies(grads)
    for tensor, g in zip(tensors, given, strict=True):
        tensor.grad = torch.from_numpy(g)
    make = DeepSpeedCPUAdam if offer.name == "DeepSpeedCPUAdam" else EagerLion if offer.name == "Lion" else None
    step = (make or getattr(torch.optim, offer.name))(tensors, **options, **offer.theirs, **how).step
    return Stepper(step, partial(overwrite, given), lambda: [tensor.detach().numpy() for tensor in tensors])


def DeepSpeedCPUAdam(tensors: Any, **options: Any) -> Any:  # noqa: N802
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it looks for others first
    return import_module("deepspeed.ops.adam").DeepSpeedCPUAdam(tensors, **options)


class EagerLion:
    """Lion as the lion-pytorch package writes it, in place where possible."""

    def __init__(self, tensors: Any, lr: float, betas: tuple[float, float]) -> None:
        import torch

        self._torch, self._tensors, self._lr, self._betas = torch, tensors, lr, betas
        self._means = [torch.zeros_like(tensor) for tensor in tensors]

    def step(self) -> None:
        beta1, beta2 = self._betas
        with self._torch.no_grad():
            for p, m in zip(self._tensors, self._means, strict=True):
                update = m.clone().mul_(beta1).add_(p.grad, alpha=1 - beta1).sign_()
                p.add_(update, alpha=-self._lr)
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


# ---- JAX


def jit_step(step: Callable[[Any, Any, Any], Any], params: Arrays, state: Any, grads: Arrays) -> Stepper:
    """Compile `step(params, state, grads)`, with parameters and state donated, so that XLA may work in place."""
    import jax

    run = jax.jit(step, donate_argnums=(0, 1))
    held = [[jax.numpy.array(p) for p in params], state, None]

    def set_grads(grads: Iterable[Array]) -> None:
        held[2] = [jax.numpy.array(g) for g in grads]

    def run_step() -> None:
        held[:2] = run(*held)
        jax.block_until_ready(held[:2])

    set_grads(grads)
    return Stepper(run_step, set_grads, lambda: [np.asarray(p) for p in held[0]])


def make_optax(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """A gradient transformation, compiled together with its application."""
    import jax
    import optax

    own = renamed(options, lr="learning_rate", betas="b1 b2", alpha="decay")
    rule = getattr(optax, offer.name)(**own, **offer.theirs)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jit_step(step, params, rule.init([jax.numpy.array(p) for p in params]), grads)


def make_keras(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """The stateless step that `fit` runs on JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    own = renamed(options, lr="learning_rate", betas="beta_1 beta_2", eps="epsilon", alpha="rho")
    opt = getattr(keras.optimizers, offer.name)(**own, **offer.theirs)
    opt.build([keras.Variable(p) for p in params])

    def step(params: Any, state: Any, grads: Any) -> Any:
        return opt.stateless_apply(state, grads, params)

    return jit_step(step, params, [jax.numpy.array(variable.value) for variable in opt.variables], grads)


# ---- Adam by hand, over NumPy arrays


class StepConstants(NamedTuple):
    """``m = beta1*m + rest1*g; v = beta2*v + rest2*g*g; p -= step_size*m / (sqrt(v) + eps)``."""

    beta1: np.float32
    rest1: np.float32
    beta2: np.float32
    rest2: np.float32
    step_size: np.float32
    eps: np.float32


def constants_for_step(options: Options, t: int) -> StepConstants:
    """Compute the constants of step t, counted from 1: one division and one square root per element remain."""
    beta1, beta2 = options["betas"]
    correction2 = sqrt(1 - beta2**t)
    step_size = options["lr"] * correction2 / (1 - beta1**t)
    values = (beta1, 1 - beta1, beta2, 1 - beta2, step_size, options["eps"] * correction2)
    return StepConstants(*map(np.float32, values))


class Buffers(NamedTuple):
    """Copies of parameters and gradients, and zeros for the two means, of one shape or flat."""

    p: list[Array]
    g: list[Array]
    m: list[Array]
    v: list[Array]


def allocate(params: Arrays, grads: Arrays) -> Buffers:
    return Buffers(copies(params), copies(grads), *([np.zeros_like(p) for p in params] for _ in range(2)))


def by_hand(
    update: Callable[[Array, Array, Array, Array, StepConstants], object],
    options: Options,
    params: Arrays,
    grads: Arrays,
) -> Stepper:
    """Call `update` for each parameter, flat, with the constants of the step."""
    own = allocate(params, grads)
    flat = [[array.reshape(-1) for array in arrays] for arrays in zip(*own, strict=True)]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        constants = constants_for_step(options, t)
        for p, g, m, v in flat:
            update(p, g, m, v, constants)

    return Stepper(step, partial(overwrite, own.g), lambda: own.p)


def make_numpy(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """A dozen passes in place, with one spare array and no allocation."""
    whole = np.empty(max(p.size for p in params), np.float32)

    def update(p: Array, g: Array, m: Array, v: Array, c: StepConstants) -> None:
        spare = whole[: p.size]
        m *= c.beta1
        np.multiply(g, c.rest1, out=spare)
        m += spare
        v *= c.beta2
        np.multiply(g, g, out=spare)
        spare *= c.rest2
        v += spare
        np.sqrt(v, out=spare)
        spare += c.eps
        np.divide(m, spare, out=spare)
        spare *= c.step_size
        p -= spare

    return by_hand(update, options, params, grads)


def make_numexpr(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """Three expressions, each compiled once; each writes into the array that it reads."""
    import numexpr

    mean, square, move = (
        numexpr.NumExpr(text, [(name, float) for name in names.split()])  # its name of float32
        for text, names in (
            ("beta*m + rest*g", "beta m rest g"),
            ("beta*v + rest*g*g", "beta v rest g"),
            ("p - step_size*m / (sqrt(v) + eps)", "p step_size m v eps"),
        )
    )

    def update(p: Array, g: Array, m: Array, v: Array, c: StepConstants) -> None:
        mean(c.beta1, m, c.rest1, g, out=m, ex_uses_vml=False)
        square(c.beta2, v, c.rest2, g, out=v, ex_uses_vml=False)
        move(p, c.step_size, m, v, c.eps, out=p, ex_uses_vml=False)

    return by_hand(update, options, params, grads)


#: The number of elements from which a second thread pays.
LEAST_PARALLEL = 50_000
#: The number of arrays from which one call with typed lists, which takes some 8 us, is faster than a call for each.
LEAST_LISTED = 8


@cache
def numba_kernels(parallel: bool) -> tuple[Any, Any]:
    """Compile the update of one array and of lists; the error model avoids a branch, which would prevent vectors."""
    import numba

    @numba.njit(fastmath=False, error_model="numpy", parallel=parallel)
    def adam(p, g, m, v, lr, beta1, beta2, eps, t):  # type: ignore[no-untyped-def]
        correction2 = np.sqrt(1 - beta2**t)
        b1, rest1, b2, rest2 = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
        step_size, eps_ = np.float32(lr * correction2 / (1 - beta1**t)), np.float32(eps * correction2)
        for i in numba.prange(p.size):
            m[i] = b1 * m[i] + rest1 * g[i]
            v[i] = b2 * v[i] + rest2 * g[i] * g[i]
            p[i] -= step_size * m[i] / (np.sqrt(v[i]) + eps_)

    @numba.njit
    def each(ps, gs, ms, vs, lr, beta1, beta2, eps, t):  # type: ignore[no-untyped-def]
        for k in range(len(ps)):
            adam(ps[k], gs[k], ms[k], vs[k], lr, beta1, beta2, eps, t)

    return adam, each


def make_numba(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """Large arrays on several threads, small ones on one; many arrays in one call."""
    import numba

    own = allocate(params, grads)
    flat = [[array.reshape(-1) for array in arrays] for arrays in zip(*own, strict=True)]
    calls: list[Callable[..., object]] = []
    for parallel in (False, True):
        chosen = [arrays for arrays in flat if (arrays[0].size >= LEAST_PARALLEL) == parallel]
        one, many = numba_kernels(parallel)
        if len(chosen) < LEAST_LISTED:
            calls += [partial(one, *arrays) for arrays in chosen]
        else:
            calls.append(partial(many, *map(numba.typed.List, zip(*chosen, strict=True))))
    constants = (options["lr"], *options["betas"], options["eps"])
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        for call in calls:
            call(*constants, t)

    return Stepper(step, partial(overwrite, own.g), lambda: own.p)


# ---- others


def make_thinc(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """Its optimizer clears the gradients, so a step writes them first, as a training loop would."""
    from thinc.api import Optimizer

    beta1, beta2 = options["betas"]
    rest = {"L2": 0.0, "grad_clip": 0.0, "use_averages": False}
    opt = Optimizer(options["lr"], beta1=beta1, beta2=beta2, eps=options["eps"], **rest)
    own, kept, given = copies(params), copies(grads), copies(grads)

    def step() -> None:
        overwrite(given, kept)
        for key, (p, g) in enumerate(zip(own, given, strict=True)):
            opt((key, "p"), p, g)

    return Stepper(step, partial(overwrite, kept), lambda: own)


#: The number of elements up to which `mx.compile` pays.  Above, its code is slower than MLX's own operations.
MOST_COMPILED = 100_000


def make_mlx(offer: Offer, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """The CPU backend, evaluated at each step; it uses one thread per stream."""
    import mlx.core as mx
    import mlx.optimizers

    mx.set_default_device(mx.cpu)
    opt = getattr(mlx.optimizers, offer.name)(**renamed(options, lr="learning_rate"), **offer.theirs)
    own = {str(i): mx.array(p) for i, p in enumerate(params)}
    given: dict[str, Any] = {}

    def set_grads(grads: Iterable[Array]) -> None:
        given.update({str(i): mx.array(g) for i, g in enumerate(grads)})

    def apply(grads: Any) -> None:
        own.update(opt.apply_gradients(grads, own))

    set_grads(grads)
    opt.init(own)
    state = [own, opt.state]
    is_small = sum(p.size for p in params) <= MOST_COMPILED
    update = mx.compile(apply, inputs=state, outputs=state) if is_small else apply

    def step() -> None:
        update(given)
        mx.eval(state)

    return Stepper(step, set_grads, lambda: [np.array(p) for p in own.values()])


# ---- the list


def offers(names: str, **arguments: Sequence[Options]) -> dict[str, Offer]:
    """Return offers by our names, with the further arguments of the peer and of fastoptim where there are any."""
    return {name.lower(): Offer(name, *arguments.get(name.lower(), ())) for name in names.split()}


TORCH = offers("Adam AdamW SGD Adagrad RMSprop Adamax NAdam RAdam Adadelta Rprop")
DEEPSPEED = {name: Offer("DeepSpeedCPUAdam", {"adamw_mode": name == "adamw"}) for name in ("adam", "adamw")}
OPTAX = offers(
    "adam adamw sgd rmsprop lion adamax adadelta adagrad",  # RAdam's float32 step count makes it differ too much
    rmsprop=[{"eps_in_sqrt": False}],
    lion=[{"weight_decay": 0.0}],
    adagrad=[{"initial_accumulator_value": 0.0}, {"eps": 0.0, "eps_root": 1e-10}],
)
HAT: Sequence[Options] = [{}, {"eps_hat": True}]
KERAS = offers(
    "Adam AdamW SGD Lion Adamax Adadelta",
    adam=HAT,
    adamw=HAT,
    sgd=[{}, {"lr_inside": True}],
    adamax=[{}, {"eps_outside": True}],
)
CORRECTED: Sequence[Options] = [{"bias_correction": True}]
MLX = offers("Adam AdamW SGD RMSprop Adagrad AdaDelta Lion", adam=CORRECTED, adamw=CORRECTED)
HAND = {"adam": Offer("Adam, by hand")}


def torch_peer(name: str, about: str, offered: Mapping[str, Offer], package: str = "torch", **how: Any) -> Peer:
    return Peer(name, package, about, partial(make_torch, **how), offered, ("torch",))


#: In the order of the tables.
ALL = (
    torch_peer("torch fused", "torch.optim.X(fused=True)", offers("Adam AdamW SGD Adagrad"), fused=True),  # on a CPU
    torch_peer("torch foreach", "torch.optim.X(foreach=True)", TORCH, foreach=True),
    torch_peer("torch eager", "Lion's update in torch operations, as in lion-pytorch", offers("Lion")),
    torch_peer("deepspeed", "DeepSpeedCPUAdam, compiled at its first use", DEEPSPEED, "deepspeed"),
    Peer("optax", "optax", "jax.jit of update and apply_updates, arguments donated", make_optax, OPTAX, ("jax",)),
    Peer("keras", "keras", "jax.jit of stateless_apply, arguments donated", make_keras, KERAS, ("jax",)),
    Peer("numba", "numba", "a njit loop, parallel for large arrays", make_numba, HAND),
    Peer("numexpr", "numexpr", "three expressions, in place", make_numexpr, HAND),
    Peer("numpy", "numpy", "in place with out=, one spare array, one thread", make_numpy, HAND),
    Peer("thinc", "thinc", "Optimizer for each array, which clears the gradient", make_thinc, offers("Adam", adam=HAT)),
    Peer("mlx", "mlx", f"on the CPU, mx.compile up to {MOST_COMPILED:,} elements", make_mlx, MLX),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in ALL}
