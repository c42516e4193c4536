"""The peers of bench/peers.py: one function for each makes its step from NumPy arrays, in its fastest form.

`PEERS` lists them with the optimizers that they offer.  Nothing here imports a peer before its step is made, so a peer
that is not installed costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import count
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import fastoptim as fo

Array = npt.NDArray[np.float32]
Arrays = Sequence[Array]
Options = Mapping[str, Any]

#: The same numbers in every workload and for every peer, by the names that they have here (which are PyTorch's).
OPTIONS: dict[str, Options] = {
    "adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "adamw": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "sgd": {"lr": 1e-3, "momentum": 0.9},
    "adagrad": {"lr": 1e-2, "eps": 1e-10},
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8},
    "adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "nadam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3},
    "radam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)},
    "lion": {"lr": 1e-4, "betas": (0.9, 0.99)},
}


class Stepper(NamedTuple):
    """A step.  Only `step` is timed; it returns when the step is finished."""

    step: Callable[[], object]
    set_grads: Callable[[Iterable[Array]], object]
    params: Callable[[], list[Array]]


#: A peer's function that makes a step from its options and the arrays of parameters and gradients, which it may use.
Make = Callable[[str, dict[str, Any], list[Array], list[Array]], "Stepper | Callable[[], object]"]


class Offer(NamedTuple):
    """One of our optimizers at a peer."""

    name: str  # theirs
    theirs: Options = {}  # the peer's further arguments
    ours: Options = {}  # the options by which our formula becomes theirs


class Peer(NamedTuple):
    """A library, or a way to write the update by hand."""

    name: str
    packages: str  # the first has the version that is shown
    about: str  # how a step is made
    make: Make
    offers: Mapping[str, Offer]  # by our names
    options: Mapping[str, str] = {}  # their names of options by ours; the parts of a pair have names of their own

    def installed(self) -> bool:
        """Return whether it can be imported, without importing it."""
        return all(map(find_spec, self.packages.split()))

    def version(self) -> str:
        return metadata.version(self.packages.split()[0])

    def stepper(self, optimizer: str, params: Arrays, grads: Arrays) -> Stepper:
        offer = self.offers[optimizer]
        options: dict[str, Any] = {}
        for option, value in OPTIONS[optimizer].items():
            parts = self.options.get(option, option).split()
            options |= dict(zip(parts, value if len(parts) > 1 else [value], strict=True))
        return over_copies(partial(self.make, offer.name, {**options, **offer.theirs}), params, grads)


def over_copies(make: Callable[[list[Array], list[Array]], Stepper | Callable[[], object]], *arrays: Arrays) -> Stepper:
    """Make a step over copies of parameters and gradients."""
    params, grads = ([array.copy() for array in kind] for kind in arrays)
    made = make(params, grads)
    return made if isinstance(made, Stepper) else Stepper(made, partial(overwrite, grads), lambda: params)


def overwrite(arrays: Arrays, values: Iterable[Array]) -> None:
    for array, value in zip(arrays, values, strict=True):
        np.copyto(array, value)


def make_ours(optimizer: str, options: Options, params: Arrays, grads: Arrays, backend: Any = "native") -> Stepper:
    """fastoptim itself; one array is passed as it is, several as a list."""

    def make(own: list[Array], given: list[Array]) -> Callable[[], object]:
        is_single = len(own) == 1
        opt = fo.OPTIMIZERS[optimizer](own[0] if is_single else own, backend=backend, **options)
        return partial(opt.step, given[0] if is_single else given)

    return over_copies(make, params, grads)


# ---- PyTorch


def make_torch(name: str, options: Options, params: Arrays, grads: Arrays, module: str, **how: Any) -> Any:
    """Tensors over the arrays; `how` selects PyTorch's implementation."""
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed looks for others first
    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    return getattr(import_module(module), name)(tensors, **options, **how).step


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
    held = [list(map(jax.numpy.array, params)), state, None]

    def set_grads(grads: Iterable[Array]) -> None:
        held[2] = list(map(jax.numpy.array, grads))

    def run_step() -> None:
        held[:2] = run(*held)
        jax.block_until_ready(held[:2])

    set_grads(grads)
    return Stepper(run_step, set_grads, lambda: list(map(np.asarray, held[0])))


def make_optax(name: str, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """A gradient transformation, compiled together with its application."""
    import jax
    import optax

    rule = getattr(optax, name)(**options)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jit_step(step, params, rule.init(list(map(jax.numpy.array, params))), grads)


def make_keras(name: str, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """The stateless step that `fit` runs on JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    opt = getattr(keras.optimizers, name)(**options)
    opt.build(list(map(keras.Variable, params)))
    state = [jax.numpy.array(variable.value) for variable in opt.variables]
    return jit_step(lambda params, state, grads: opt.stateless_apply(state, grads, params), params, state, grads)


# ---- Adam by hand, over NumPy arrays

Flat = Sequence[tuple[Array, Array, Array, Array]]  # p, g, m and v of each parameter


def by_hand(prepare: Callable[[Flat], Callable[..., object]], name: str, options: Options, *arrays: Arrays) -> Any:
    """Let `prepare` make a function of the learning rate, both betas, eps and the step number."""
    flat = [(p.reshape(-1), g.reshape(-1), *np.zeros((2, p.size), np.float32)) for p, g in zip(*arrays, strict=True)]
    update, steps = prepare(flat), count(1)
    numbers = (options["lr"], *options["betas"], options["eps"])
    return lambda: update(*numbers, next(steps))


def for_each(update: Callable[..., object], flat: Flat) -> Callable[..., object]:
    """Call `update` with the constants of the step: one division and one square root per element remain.

    ``m = beta1*m + rest1*g; v = beta2*v + rest2*g*g; p -= step_size*m / (sqrt(v) + eps)``
    """

    def update_all(lr: float, beta1: float, beta2: float, eps: float, t: int) -> None:
        correction2 = sqrt(1 - beta2**t)
        step_size = lr * correction2 / (1 - beta1**t)
        constants = [*map(np.float32, (beta1, 1 - beta1, beta2, 1 - beta2, step_size, eps * correction2))]
        for arrays in flat:
            update(*arrays, *constants)

    return update_all


def numpy_adam(flat: Flat) -> Callable[..., object]:
    """A dozen passes in place, with one spare array and no allocation."""
    whole = np.empty(max(arrays[0].size for arrays in flat), np.float32)

    def update(p: Array, g: Array, m: Array, v: Array, *constants: Any) -> None:
        beta1, rest1, beta2, rest2, step_size, eps = constants
        spare = whole[: p.size]
        m *= beta1
        np.multiply(g, rest1, out=spare)
        m += spare
        v *= beta2
        np.multiply(g, g, out=spare)
        spare *= rest2
        v += spare
        np.sqrt(v, out=spare)
        spare += eps
        np.divide(m, spare, out=spare)
        spare *= step_size
        p -= spare

    return for_each(update, flat)


def numexpr_adam(flat: Flat) -> Callable[..., object]:
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

    def update(p: Array, g: Array, m: Array, v: Array, *constants: Any) -> None:
        beta1, rest1, beta2, rest2, step_size, eps = constants
        mean(beta1, m, rest1, g, out=m, ex_uses_vml=False)
        square(beta2, v, rest2, g, out=v, ex_uses_vml=False)
        move(p, step_size, m, v, eps, out=p, ex_uses_vml=False)

    return for_each(update, flat)


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


def numba_adam(flat: Flat) -> Callable[..., object]:
    """Large arrays on several threads, small ones on one; many arrays in one call."""
    import numba

    calls: list[Callable[..., object]] = []
    for parallel in (False, True):
        chosen = [arrays for arrays in flat if (arrays[0].size >= LEAST_PARALLEL) == parallel]
        one, many = numba_kernels(parallel)
        if len(chosen) < LEAST_LISTED:
            calls += [partial(one, *arrays) for arrays in chosen]
        else:
            calls.append(partial(many, *map(numba.typed.List, zip(*chosen, strict=True))))

    def update_all(*numbers: float) -> None:
        for call in calls:
            call(*numbers)

    return update_all


# ---- others


def make_thinc(name: str, options: dict[str, Any], params: Arrays, grads: Arrays) -> Stepper:
    """Its optimizer clears the gradients, so a step writes them first, as a training loop would."""
    from thinc.api import Optimizer

    opt = Optimizer(options.pop("lr"), L2=0.0, grad_clip=0.0, use_averages=False, **options)
    kept = [g.copy() for g in grads]

    def step() -> None:
        overwrite(grads, kept)
        for key, (p, g) in enumerate(zip(params, grads, strict=True)):
            opt((key, "p"), p, g)

    return Stepper(step, partial(overwrite, kept), lambda: list(params))


#: The number of elements up to which `mx.compile` pays.  Above, its code is slower than MLX's own operations.
MOST_COMPILED = 100_000


def make_mlx(name: str, options: Options, params: Arrays, grads: Arrays) -> Stepper:
    """The CPU backend, evaluated at each step; it uses one thread per stream."""
    import mlx.core as mx
    import mlx.optimizers

    mx.set_default_device(mx.cpu)
    opt = getattr(mlx.optimizers, name)(**options)
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

    return Stepper(step, set_grads, lambda: list(map(np.array, own.values())))


# ---- the list


def offers(names: str, **arguments: Sequence[Options]) -> dict[str, Offer]:
    """Return offers by our names, with the further arguments of the peer and of fastoptim where there are any."""
    return {name.lower(): Offer(name, *arguments.get(name.lower(), ())) for name in names.split()}


HAT: Sequence[Options] = [{}, {"eps_hat": True}]
CORRECTED: Sequence[Options] = [{"bias_correction": True}]
TORCH = offers("Adam AdamW SGD Adagrad RMSprop Adamax NAdam RAdam Adadelta Rprop")
DEEPSPEED = {name: Offer("DeepSpeedCPUAdam", {"adamw_mode": name == "adamw"}) for name in ("adam", "adamw")}
OPTAX = offers(
    "adam adamw sgd rmsprop lion adamax adadelta adagrad",  # RAdam's float32 step count makes it differ too much
    rmsprop=[{"eps_in_sqrt": False}],
    lion=[{"weight_decay": 0.0}],
    adagrad=[{"initial_accumulator_value": 0.0}, {"eps": 0.0, "eps_root": 1e-10}],
)
KERAS = offers(
    "Adam AdamW SGD Lion Adamax Adadelta",
    adam=HAT,
    adamw=HAT,
    sgd=[{}, {"lr_inside": True}],
    adamax=[{}, {"eps_outside": True}],
)
MLX = offers("Adam AdamW SGD RMSprop Adagrad AdaDelta Lion", adam=CORRECTED, adamw=CORRECTED)
HAND = {"adam": Offer("Adam, by hand")}

LEARNING_RATE = {"lr": "learning_rate"}
OPTAX_OPTIONS = {**LEARNING_RATE, "betas": "b1 b2", "alpha": "decay"}
KERAS_OPTIONS = {**LEARNING_RATE, "betas": "beta_1 beta_2", "eps": "epsilon", "alpha": "rho"}

JIT = "jax.jit of {}, arguments donated"


def torch_peer(name: str, about: str, offered: Mapping[str, Offer], module: str = "torch.optim", **how: Any) -> Peer:
    packages = " ".join(dict.fromkeys([name.split()[0], "torch"]))
    return Peer(name, packages, about, partial(make_torch, module=module, **how), offered)


#: In the order of the tables.
ALL = (
    torch_peer("torch fused", "torch.optim.X(fused=True)", offers("Adam AdamW SGD Adagrad"), fused=True),  # on a CPU
    torch_peer("torch foreach", "torch.optim.X(foreach=True)", TORCH, foreach=True),
    torch_peer("torch eager", "in torch operations, as in lion-pytorch", {"lion": Offer("EagerLion")}, __name__),
    torch_peer("deepspeed", "DeepSpeedCPUAdam, compiled at its first use", DEEPSPEED, "deepspeed.ops.adam"),
    Peer("optax", "optax jax", JIT.format("update and apply_updates"), make_optax, OPTAX, OPTAX_OPTIONS),
    Peer("keras", "keras jax", JIT.format("stateless_apply"), make_keras, KERAS, KERAS_OPTIONS),
    Peer("numba", "numba", "a njit loop, parallel for large arrays", partial(by_hand, numba_adam), HAND),
    Peer("numexpr", "numexpr", "three expressions, in place", partial(by_hand, numexpr_adam), HAND),
    Peer("numpy", "numpy", "in place with out=, one spare array, one thread", partial(by_hand, numpy_adam), HAND),
    Peer("thinc", "thinc", "Optimizer for each array", make_thinc, offers("Adam", adam=HAT), {"betas": "beta1 beta2"}),
    Peer("mlx", "mlx", f"on the CPU, mx.compile up to {MOST_COMPILED:,} elements", make_mlx, MLX, LEARNING_RATE),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in ALL}
