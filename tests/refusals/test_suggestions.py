"""Messages that suggest what was meant: options, classes and functions by other names, arrays of other libraries."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from loops import loop
from models import each_module, every_optimizer

OPTIONS = [
    (fo.Adam, "learning_rate", "lr"),
    (fo.Adam, "learningrate", "lr"),
    (fo.Adam, "LR", "lr"),
    (fo.Adam, "beta1", "betas"),
    (fo.Adam, "beta_2", "betas"),
    (fo.Adam, "b1", "betas"),
    (fo.Lion, "b2", "betas"),
    (fo.Adam, "epsilon", "eps"),
    (fo.Adam, "wd", "weight_decay"),
    (fo.Adam, "weightdecay", "weight_decay"),
    (fo.Adam, "clipnorm", "clip_norm"),
    (fo.Adam, "global_clipnorm", "clip_global_norm"),
    (fo.Adam, "max_grad_norm", "clip_global_norm"),
    (fo.Adam, "ams_grad", "amsgrad"),
    (fo.Adam, "ema_momentum", "ema"),
    (fo.NAdam, "momentum_decy", "momentum_decay"),
    (fo.RMSprop, "rho", "alpha"),
    (fo.Adadelta, "decay_rate", "rho"),
    (fo.SGD, "nesterov_momentum", "momentum"),
]


@loop(("optimizer", "wrong", "right"), OPTIONS)
def test_an_unknown_option_suggests_one(optimizer: type[fo.Optimizer], wrong: str, right: str) -> None:
    message = f"^{wrong}: not an option of {optimizer.__name__}; did you mean '{right}'\\? the options are "
    p = np.ones(2)
    with pytest.raises(TypeError, match=message):
        optimizer(p, **{wrong: 0.5})
    with pytest.raises(TypeError, match=message):
        getattr(fo.functional, optimizer.name)(p, p, step=1, **{wrong: 0.5})


@loop(("optimizer", "wrong", "right"), [*OPTIONS, (fo.Adam, "weight_decy", "weight_decay")])
def test_a_misspelled_attribute_suggests_an_option(optimizer: type[fo.Optimizer], wrong: str, right: str) -> None:
    opt = optimizer(np.ones(2))
    message = f"^{wrong}: not an attribute of {optimizer.__name__}; did you mean '{right}'\\?$"
    with pytest.raises(AttributeError, match=message):
        setattr(opt, wrong, 0.5)
    assert not hasattr(opt, wrong)


@loop(("optimizer", "name"), [(fo.SGD, "amsgrad"), (fo.Adam, "trust_coefficient"), (fo.Mixed, "betas")])
def test_an_option_of_another_class_is_no_attribute(optimizer: type[fo.Optimizer], name: str) -> None:
    p = np.ones(2)
    opt = optimizer([{"params": p, "optimizer": fo.Adam}]) if optimizer is fo.Mixed else optimizer(p)
    with pytest.raises(AttributeError, match=f"^{name}: not an option of {optimizer.__name__}; it has \\['"):
        setattr(opt, name, 0.5)


@every_optimizer
def test_attributes_that_resemble_nothing_or_are_of_a_user_are_accepted(optimizer: type[fo.Optimizer]) -> None:
    class Own(optimizer):  # type: ignore[misc, valid-type]
        def __init__(self, params: Any) -> None:
            self.decay = self.learning_rate = 0.5
            super().__init__(params)
            self.weight_decy = 0.5

    own = Own(np.ones(2))
    assert (own.decay, own.learning_rate, own.weight_decy) == (0.5, 0.5, 0.5)
    opt: Any = optimizer(np.ones(2))
    opt.scheduler = opt._lr = opt.step = "anything"  # as schedulers of other libraries replace methods
    assert (opt.scheduler, opt._lr, opt.step) == ("anything",) * 3


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    with pytest.raises(TypeError, match=r"^xyzzy: not an option of Adam; the options are"):
        fo.Adam(np.ones(2), **{"xyzzy": 1})  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        _ = getattr(fo, "xyzzy")  # noqa: B009


@every_optimizer
def test_another_spelling_of_a_class_suggests_it(optimizer: type[fo.Optimizer]) -> None:
    for wrong in {optimizer.name, optimizer.__name__.lower(), optimizer.__name__.upper()} - {optimizer.__name__}:
        with pytest.raises(AttributeError, match=f"no attribute '{wrong}'; did you mean '{optimizer.__name__}'\\?$"):
            getattr(fo, wrong)


@every_optimizer
@each_module
def test_a_class_in_place_of_a_function_suggests_it(optimizer: type[fo.Optimizer], module: Any) -> None:
    with pytest.raises(AttributeError, match=f"did you mean '{optimizer.name}'\\? the optimizers are"):
        getattr(module, optimizer.__name__)


NAMES = [("Nesterov", "NAG"), ("SGDM", "Momentum"), ("AdaDelt", "Adadelta"), ("build_infos", "build_info")]


@loop(("wrong", "right"), NAMES)
def test_names_of_other_libraries(wrong: str, right: str) -> None:
    assert not hasattr(fo, wrong)
    with pytest.raises(AttributeError, match=f"did you mean '{right}'"):
        getattr(fo, wrong)


LIBRARIES = {
    "torch": "tensors on the CPU or on CUDA",
    "jax": "immutable",
    "jaxlib._jax": "immutable",
    "tensorflow.python": "x.numpy()",
    "pandas.core.frame": "x.to_numpy()",
}


@loop("library", LIBRARIES)
def test_an_array_of_another_library_names_the_conversion(library: str) -> None:
    thing = type("Tensor", (SimpleNamespace,), {"__module__": library})()
    for place, call in (
        ("params['w']", lambda: fo.SGD({"w": thing})),
        ("g", lambda: fo.functional.sgd(np.ones(2), thing, step=1)),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert re.match(f"{re.escape(place)}: expected a NumPy array, got {library}.Tensor; ", str(caught.value))
        assert LIBRARIES[library] in str(caught.value)
