"""The base class of the optimizers for PyTorch, and the classes made from the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from textwrap import indent
from typing import Any, ClassVar, NamedTuple

import torch
from torch.optim import optimizer as torch_optimizer

import fastoptim  # noqa: F401  # registers the optimizers

from ...optimizer.base import Optimizer as CoreOptimizer
from ...optimizer.base import known_optimizers
from ...optimizer.state_formats import CONVERTS
from ...options.checks import check_option
from . import formats
from .rows import checked_copies, remap
from .stepper import check_groups, make_stepper, place_of, stepper_class
from .tensors import NUMBERS, inner, names_of, no_numbers, scalar_tensor, with_tensors

CORE_OPTIMIZERS = known_optimizers()

#: Options of PyTorch's implementations.  The values have no effect here, where every step is fused.
FLAGS: dict[str, Any] = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
_FLAGS_DOC = """\
copies: A list with a float16 or bfloat16 tensor, or None, for each parameter, over all groups.  Each step writes the
    rounded parameters to them in the pass of the update.  Default None.
foreach, fused, capturable: Accepted without effect, as every step is fused; not both of `foreach` and `fused`.
differentiable: False only; RuntimeError for True.
decoupled_weight_decay: PyTorch's name of `decoupled`."""
#: The options and the names of the state arrays of all optimizers.
_OPTIONS = {name for core in CORE_OPTIMIZERS.values() for name in core.defaults}
_ARRAYS = {name for core in CORE_OPTIMIZERS.values() for name in names_of(core).values()}
DECOUPLED = "decoupled_weight_decay"  # PyTorch's name of the option `decoupled`


class _Loading(NamedTuple):
    """A state dict while it is loaded, after the user's hooks."""

    saved: dict[str, Any]
    convert: bool
    formats: list[tuple[str, int]]
    """`state_format` and `int8_min_size` of each group."""


class Optimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """A `torch.optim.Optimizer` whose steps are those of an optimizer of fastoptim."""

    core: ClassVar[type[CoreOptimizer]]
    _signature: ClassVar[inspect.Signature]
    _step_supports_amp_scaling = (
        True  # GradScaler sets `grad_scale` and `found_inf`, and leaves the gradients as they are
    )
    _loads_numpy_arrays = True  # so that `fastoptim.save` accepts its tensors
    _stepper: Any = None
    _copies: Mapping[Any, Any] = {}  # by parameter
    _loading: _Loading | None = None

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        bound = self._signature.bind(params, *args, **kwargs)
        given = {name: value for name, value in bound.arguments.items() if name != "params"}
        copies = given.pop("copies", None)
        convention = {name: given.pop(name) for name in ("convention",) if name in given}
        options = dict(self.core.checked_defaults(convention))
        super().__init__(params, {**options, **FLAGS, **_renamed(given)})
        if copies is not None:
            self._copies = checked_copies(self.param_groups, copies)
            self.refresh_copies()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own; see `torch.optim.Optimizer.add_param_group`."""
        if isinstance(param_group, dict):
            own = {name: value for name, value in param_group.items() if name != "params"}
            renamed = _renamed(own)
            param_group.update(renamed)
            param_group.pop(DECOUPLED, None)
            options = {**self.defaults, **renamed}
            if isinstance(lr := options["lr"], torch.Tensor) and lr.numel() != 1:
                raise ValueError("Tensor lr must be 1-element")
            if options["differentiable"]:
                raise RuntimeError("differentiable: expected False, as a native step has no derivative, got True")
            if options["foreach"] and options["fused"]:
                raise RuntimeError("fused: expected False or None together with foreach=True, got True")
            checked = stepper_class(self.core).check_options(options)  # type: ignore[arg-type]  # mypy: a class has no hash
            if isinstance(lr, float) and (raised := checked.raised_lr_max(lr)) is not None:
                param_group["lr_max"] = raised
        super().add_param_group(param_group)
        try:
            self._check_shapes(len(self.param_groups) - 1)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_shapes(self, index: int) -> None:
        """Raise ValueError for a parameter in a new group of a shape that the formula does not take."""
        group = self.param_groups[index]
        for i, tensor in enumerate(group["params"]):
            if not torch.nn.parameter.is_lazy(tensor):
                self.core.check_shape(tuple(inner(tensor).shape), group, f"param_groups{place_of(index, i)}")

    # ---- steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, and return the result of the closure, which recomputes the loss and its gradients."""
        if torch.compiler.is_compiling():
            return _step_uncompiled(self, closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return _hooked_step(self) if closure is None else _hooked_step(self, closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # the base class wraps every other `step`, at a few microseconds

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found_inf = (vars(self).get(name) for name in ("grad_scale", "found_inf"))
        if found_inf is not None and found_inf.item():
            return loss
        number = 1.0 if scale is None else float(scale)
        stepper = self._stepper
        if stepper is None or not stepper.take_step(self.param_groups, self.state, number):
            stepper = self._stepper = make_stepper(self.core, self.param_groups, self.state, self._copies, False)
            if stepper is not None and not stepper.take_step(self.param_groups, self.state, number):
                raise RuntimeError("step: expected parameters and state that stay as they are, got some that change")
        return loss  # without a step if no parameter has a gradient

    def _whole_stepper(self) -> Any:
        """Return a stepper of all parameters that require gradients."""
        stepper = self._stepper
        if stepper is None or not stepper._swapped_by:
            stepper = make_stepper(self.core, self.param_groups, self.state, self._copies, True)
            if stepper is None:
                raise ValueError("params: expected at least one tensor that requires a gradient, got none")
            if not all(target.is_plain for target in stepper._borrowed.targets):
                raise ValueError("params: expected dense real tensors where their values are replaced")
            self._stepper = stepper
        return stepper

    def averaged(self) -> AbstractContextManager[None]:
        """Temporarily assign the averages of `ema` or `swa_start` to the parameters; see `fastoptim.Optimizer`."""
        return self._whole_stepper().averaged()  # type: ignore[no-any-return]

    def refresh_copies(self) -> None:
        """Round the parameters into `copies` now; needed only after they were changed by other means than `step`."""
        with torch.no_grad():
            for tensor, copy in self._copies.items():
                copy.copy_(tensor)

    def remap(self, params: Mapping[Any, Any], source: Mapping[Any, Any]) -> None:
        """Replace parameters by tensors with other rows, and keep the state of the rows that stay.

        Row i of a new tensor takes the state of row ``source[p][i]`` of the parameter `p` that it replaces; -1 is the
        state before the first step, as in `fastoptim.Optimizer.remap`.  The new tensor replaces the old one in
        `param_groups` and `state`; in the model it is the caller's to replace.  A call that raises an error has
        changed nothing.

        Args:
            params: The new tensors, leaves that require gradients, by the parameters that they replace.
            source: The indices of int32 or int64, by the same parameters.

        Raises:
            IndexError: An index is below -1, or not below the old number of rows.
            TypeError: A key is not a parameter, or a tensor is of another kind or dtype.
            ValueError: A shape does not fit, a parameter is complex, a DTensor or has gaps, or has one of `copies`.

        >>> import torch, fastoptim.torch
        >>> p, new = torch.ones(3, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
        >>> opt = fastoptim.torch.Adam([p])
        >>> (p * torch.arange(3.0)[:, None]).sum().backward()
        >>> opt.step()
        >>> opt.remap({p: new}, {p: torch.tensor([2, -1])})
        >>> opt.state[new]["exp_avg"][:, 0]
        tensor([0.2000, 0.0000])
        """
        if self._stepper is not None:
            self._stepper.check_not_swapped()
        remap(self, params, source)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_copies": self._copies}

    def master_params(self) -> list[Any]:
        """Return copies of the parameters that require gradients, with their extra bits; see `fastoptim.Optimizer`."""
        return self._whole_stepper().master_params()  # type: ignore[no-any-return]

    def state_values(self) -> dict[Any, dict[str, Any]]:
        """Return copies of the state, those of compressed arrays decoded, in the structure of `state`.

        They are float32, or float64 for float64 parameters.  The keys are the parameters that have state.

        >>> import torch, fastoptim.torch
        >>> p = torch.nn.Parameter(torch.zeros(4096))
        >>> opt = fastoptim.torch.Lion([p], state_format="int8")
        >>> p.sum().backward()
        >>> opt.step()
        >>> opt.state[p]["m"]["codes"].dtype, opt.state_values()[p]["m"][0]
        (torch.int8, tensor(0.0100))
        """
        if self._stepper is not None:
            self._stepper.check_not_swapped()
        settings = check_groups(self.core, self.param_groups)
        return formats.state_values(self.core, self.param_groups, settings, self.state)

    @property
    def state_nbytes(self) -> int:
        """The bytes of all state arrays."""
        return formats.state_nbytes(self.core, self.state)

    # ---- state dicts

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the state as `torch.optim` does, under its names for the optimizers that it has."""
        if self._stepper is not None:
            self._stepper.check_not_swapped()
        made: dict[str, Any] = super().state_dict()
        numbers = NUMBERS.get(self.core.name, no_numbers)
        for group in made["param_groups"]:
            group[DECOUPLED] = group["decoupled"]
            for i in group["params"]:
                state = made["state"].get(i, {})
                if state:
                    made["state"][i] = state = formats.with_orders(state)
                if "step" in state and (derived := numbers(group, int(state["step"]))):
                    made["state"][i] = {**state, **{name: scalar_tensor(value) for name, value in derived.items()}}
        return made

    def load_state_dict(self, state_dict: dict[str, Any], *, convert: bool = False) -> None:
        """Load a `state_dict` of this class or of torch.optim's class of the same name, also from `fastoptim.load`.

        State in another `state_format`, such as that of torch.optim, raises ValueError, unless `convert` is true; the
        groups keep their formats.
        """
        before = {name: vars(self).get(name) for name in ("state", "param_groups", "_stepper")}
        own_formats = [(group["state_format"], group["int8_min_size"]) for group in self.param_groups]
        self._loading = loading = _Loading({}, check_option(bool, convert, "convert"), own_formats)
        hook = self.register_load_state_dict_pre_hook(lambda _, loaded: loading.saved.update(loaded))
        try:
            super().load_state_dict(with_tensors(state_dict))
        except BaseException:
            self.__dict__.update(before)
            raise
        finally:
            self._loading = None
            hook.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stepper = None
        if self._loading is not None:
            self._keep_formats(self._loading)
        for group in self.param_groups:
            if DECOUPLED in group:
                group["decoupled"] = group.pop(DECOUPLED)
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        if loading := self._loading:
            _check_kind(self.core, loading.saved)
            self._adopt_state(loading)

    def _keep_formats(self, loading: _Loading) -> None:
        """Keep the formats of each group; raise ValueError for other saved ones, unless state is converted."""
        for i, (group, (own, min_size)) in enumerate(zip(self.param_groups, loading.formats, strict=True)):
            if (got := group.get("state_format", "native")) != own and not loading.convert:
                place = f"state_dict['param_groups'][{i}]"
                raise ValueError(f"{place}: state_format: expected {own!r}, got {got!r}{CONVERTS}")
            group.update(state_format=own, int8_min_size=min_size)

    def _adopt_state(self, loading: _Loading) -> None:
        """Replace the loaded state, which PyTorch has cast to the parameters' types, by arrays of the core's types."""
        saved, cores = loading.saved, names_of(self.core).values()
        settings = check_groups(self.core, self.param_groups)
        places = (i for group in saved["param_groups"] for i in group["params"])
        tensors = ((p, own) for group, own in zip(self.param_groups, settings, strict=True) for p in group["params"])
        for i, (tensor, own) in zip(places, tensors, strict=True):
            state = saved["state"].get(i)
            if not state:
                continue
            adopted = {k: v for k, v in state.items() if k != "step" and k not in cores}
            place = f"state_dict['state'][{i}]"
            adopted |= formats.adopted(self.core, state, tensor, own, place, loading.convert)
            if "step" in state:
                adopted["step"] = scalar_tensor(float(state["step"]))
            self.state[tensor] = adopted


def _check_kind(core: type[CoreOptimizer], saved: Mapping[str, Any]) -> None:
    """Raise ValueError for a state dict of another optimizer, by options and state that only others have."""
    own, expected = set(names_of(core).values()), f"state_dict: expected one of {core.__name__}"
    needed = {names_of(core)[name] for name in set.intersection(*map(set, core.variants.values()))}
    for group in saved["param_groups"]:
        if foreign := sorted(group.keys() & _OPTIONS - core.defaults.keys()):
            raise ValueError(f"{expected}, got the options {foreign} of another optimizer")
    for state in saved["state"].values():
        present = {name for name, value in state.items() if isinstance(value, (torch.Tensor, dict))}
        if foreign := sorted(present & _ARRAYS - own):
            raise ValueError(f"{expected}, got the state {foreign} of another optimizer")
        if present and (missing := sorted(needed - present)):
            raise ValueError(f"{expected}, got a parameter's state without {missing}")


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"decoupled" if name == DECOUPLED else name: value for name, value in options.items()}


@torch._disable_dynamo  # type: ignore[untyped-decorator]  # as PyTorch's own methods are
def _step_uncompiled(optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
    """Take a step in a break of the graph that contains it."""
    return Optimizer.step(optimizer, closure)


_hooked_step = torch.optim.Optimizer.profile_hook_step(Optimizer._step)


# ---- the classes


def _signature(core: type[CoreOptimizer]) -> inspect.Signature:
    """Return the constructor's signature: torch.optim's positional arguments first, where it has the class."""
    kinds = inspect.Parameter
    parameters = {p.name: p for p in inspect.signature(core).parameters.values() if p.name != "backend"}
    parameters |= {name: kinds(name, kinds.KEYWORD_ONLY, default=value) for name, value in FLAGS.items()}
    parameters[DECOUPLED] = kinds(DECOUPLED, kinds.KEYWORD_ONLY, default=core.defaults["decoupled"])
    theirs = getattr(torch.optim, core.__name__, core)
    positional = [p.name for p in inspect.signature(theirs).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    first = [
        parameters.pop(name).replace(kind=kinds.POSITIONAL_OR_KEYWORD) for name in positional if name in parameters
    ]
    return inspect.Signature([*first, *(p.replace(kind=kinds.KEYWORD_ONLY) for p in parameters.values())])


def _docstring(core: type[CoreOptimizer]) -> str:
    text = (inspect.getdoc(core) or "").partition("\n>>> ")[0]
    text = text.replace(
        "params: Arrays to update in place; see `Optimizer`.",
        "params: Tensors, groups of tensors, or named tensors, as for `torch.optim.Optimizer`.",
    )
    text = text.replace("see `Optimizer`.", "see `fastoptim.Optimizer`.\n" + indent(_FLAGS_DOC, "    "))
    return f"""{text}
The formula and the other options are those of `fastoptim.{core.__name__}`, without `backend`, and so are the results.
Methods and attributes are those of `torch.optim.Optimizer`: `step` takes a closure and returns its result, also where
`skip_nonfinite` has skipped the step; learning rates are in `param_groups`, and step counts in `state[p]["step"]`.

>>> import torch, fastoptim.torch
>>> p = torch.nn.Parameter(torch.ones({"2, 2" if core.stages else "2"}))
>>> opt = fastoptim.torch.{core.__name__}([p])
>>> p.sum().backward()
>>> for _ in range(2):  # the first step of ADOPT only starts its state
...     opt.step()
>>> bool((p < 1).all())
True
"""


def _delegate(name: str, method: Any) -> Callable[..., Any]:
    def call(self: Optimizer, *args: Any) -> Any:
        return getattr(self._whole_stepper(), name)(*args)

    call.__name__, call.__doc__ = name, (method.__doc__ or "").partition("\n\n")[0]
    return call


def _make(core: type[CoreOptimizer]) -> type[Optimizer]:
    methods = {
        name: _delegate(name, getattr(core, name))
        for name in ("lookahead", "eval", "train", "update_hessian")
        if getattr(core, name, None) is not getattr(CoreOptimizer, name, None)
    }
    signature = _signature(core)
    body = {"core": core, "_signature": signature, "__signature__": signature, "__doc__": _docstring(core)}
    return type(core.__name__, (Optimizer,), {**body, **methods, "__module__": "fastoptim.torch"})


OPTIMIZERS = [_make(core) for core in CORE_OPTIMIZERS.values()]
