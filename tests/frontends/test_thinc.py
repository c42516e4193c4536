"""Optimizers in thinc's protocol: thinc's own numbers, its models, its configurations, and spaCy's training loop."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import CHECKOUT, Array
from loops import loop
from models import OPTIMIZERS
from optional import optional

thinc = optional("thinc.api")

import fastoptim.thinc  # noqa: E402

DECLARED = entry_points(group="thinc_optimizers")
needs_metadata = pytest.mark.skipif(
    "fastoptim.AdamW.v1" not in DECLARED.names, reason="needs the entry points of the installed package: pip install ."
)


def arrays(seed: int = 0) -> dict[tuple[int, str], Array]:
    rng = np.random.default_rng(seed)
    return {(0, "W"): rng.standard_normal((4, 3), np.float32), (3, "b"): rng.standard_normal(3, np.float32)}


def run(optimizer: Any, steps: int = 12, lr_scale: float = 1.0, scale: float = 1.0) -> dict[tuple[int, str], Array]:
    """Take steps with the protocol of Model.finish_update and spaCy's loop."""
    weights, grads = arrays(), {key: np.zeros_like(w) for key, w in arrays().items()}
    for step in range(steps):
        for key in weights:
            grads[key] += np.float32(scale) * arrays(step + 1)[key]  # as thinc does
            new, gradient = optimizer(key, weights[key], grads[key], lr_scale=lr_scale)
            assert np.shares_memory(new, weights[key])
            assert not gradient.any()
        optimizer.step_schedules()
    return weights


def halving() -> Iterator[float]:
    rate = 0.1
    while True:
        yield rate
        rate /= 2


@loop(
    ("name", "options"),
    [
        ("Adam", {}),
        ("Adam", {"learn_rate": 0.01, "scale": 1e-6}),
        ("SGD", {"learn_rate": 0.01}),
        ("Adam", {"learn_rate": 0.01, "grad_clip": 1.5, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}),
        ("Adam", {"learn_rate": 0.01, "L2": 0.1, "L2_is_weight_decay": False, "grad_clip": 0.0}),
        ("Adam", {"learn_rate": 1e-3, "L2": 0.1}),
        ("Adam", {"learn_rate": [0.1, 0.05, 0.02], "grad_clip": [1.0, 2.0, 0.5], "use_averages": False}),
        ("SGD", {"learn_rate": 0.1, "L2": 0.05, "L2_is_weight_decay": False, "grad_clip": 0.0}),
        ("SGD", {"learn_rate": halving, "grad_clip": 0.5, "L2_is_weight_decay": False}),
    ],
)
def test_thinc_has_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    both, scale = [], options.get("scale", 1.0)
    for module in (thinc, fastoptim.thinc):
        fresh = {name: value() if callable(value) else value for name, value in options.items() if name != "scale"}
        both.append(getattr(module, name)(**fresh))
    assert both[1].L2_is_weight_decay == both[0].L2_is_weight_decay
    theirs, ours = (run(optimizer, steps=3, lr_scale=0.5, scale=scale) for optimizer in both)
    for key, weights in theirs.items():
        np.testing.assert_allclose(ours[key], weights, rtol=2e-5, atol=2e-6)
    if options.get("use_averages", True):
        for key, average in both[0].averages.items():
            np.testing.assert_allclose(both[1].averages[key], average, rtol=2e-5, atol=2e-6)
    else:
        assert both[1].averages is None


@pytest.mark.parametrize("name", ["Adam", "RAdam", "SGD"])
def test_the_names_that_thinc_has_have_thinc_s_defaults(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(module, name)).parameters for module in (thinc, fastoptim.thinc))
    shared = [each for each in theirs if theirs[each].default is not inspect.Parameter.empty]
    assert {each: ours[each].default for each in shared} == {each: theirs[each].default for each in shared}
    made = [getattr(module, name)(0.1) for module in (thinc, fastoptim.thinc)]
    assert len({(each.L2_is_weight_decay, each.use_radam, each.averages is None) for each in made}) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_takes_the_steps_of_a_plain_loop(optimizer: type[fo.Optimizer]) -> None:
    own = {"eps_hat": False} if optimizer is fo.Adam else {}
    made = getattr(fastoptim.thinc, optimizer.__name__)(grad_clip=0.0, use_averages=False, **own)
    assert made.L2_is_weight_decay == (optimizer.defaults["decoupled"] or optimizer.__name__ in vars(thinc))
    assert isinstance(made, thinc.Optimizer)
    weights = run(made, steps=4)
    for key, p in arrays().items():
        opt = optimizer(p)
        for step in range(4):
            opt.step(arrays(step + 1)[key])
        assert np.array_equal(weights[key], p), key


def test_the_state_continues_where_another_array_replaces_the_weights() -> None:
    optimizer = fastoptim.thinc.Adam(0.1, grad_clip=0.0)
    w, g = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    expected = w.copy()
    opt = fo.Adam(expected, lr=0.1, eps_hat=True)
    for _ in range(4):
        w, _ = optimizer((1, "W"), w.copy(), g.copy())
        opt.step(g)
    w, _ = optimizer((1, "W"), w[:], g.copy())
    opt.step(g)
    assert np.array_equal(w, expected)
    assert optimizer((2, "E"), np.ones((0, 3), np.float32), np.ones((0, 3), np.float32))[0].size == 0


def test_learning_rates_may_be_schedules_of_either_library() -> None:
    schedule = fo.schedules.Exponential(0.5, gamma=0.5)
    weights = run(fastoptim.thinc.SGD(schedule, momentum=0.5, grad_clip=0.0), steps=4)
    for key, p in arrays().items():
        opt = fo.SGD(p, lr=schedule, momentum=0.5)
        for step in range(4):
            opt.step(arrays(step + 1)[key])
        assert np.array_equal(weights[key], p), key
    resolved = thinc.registry.resolve({"rate": {"@schedules": "decaying.v1", "base_rate": 0.5, "decay": 1.0}})
    run(fastoptim.thinc.Adam(resolved["rate"]), steps=3)


def test_averages_of_the_optimizer_itself() -> None:
    optimizer = fastoptim.thinc.SGD(0.5, ema=0.75, grad_clip=0.0)
    run(optimizer, steps=3)
    for key, p in arrays().items():
        opt = fo.SGD(p, lr=0.5, ema=0.75)
        for step in range(3):
            opt.step(arrays(step + 1)[key])
        assert np.array_equal(optimizer.averages[key], opt.state["average"])


def trained(optimizer: Any, steps: int = 60) -> tuple[Any, float]:
    """Train a small network, and return it with the share of correct answers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2), np.float32)
    y = np.eye(2, dtype=np.float32)[(x[:, 0] * x[:, 1] > 0).astype(int)]
    thinc.fix_random_seed(0)
    model = thinc.chain(thinc.Relu(32), thinc.Softmax())
    model.initialize(X=x, Y=y)
    for _ in range(steps):
        guess, backprop = model.begin_update(x)
        backprop((guess - y) / len(x))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    with model.use_params(optimizer.averages or {}):
        return model, float((model.predict(x).argmax(axis=1) == y.argmax(axis=1)).mean())


@needs_metadata
def test_a_model_learns_with_an_optimizer_of_a_configuration() -> None:
    text = '[optimizer]\n@optimizers = "fastoptim.AdamW.v1"\nlearn_rate = 0.05\nema = 0.5\ngrad_clip = 1.0'
    config = thinc.registry.fill(thinc.Config().from_str(text))
    optimizer = thinc.registry.resolve(thinc.Config().from_str(config.to_str()))["optimizer"]
    assert trained(optimizer)[1] > 0.9


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp:FutureWarning")  # thinc calls it
def test_a_pytorch_layer_is_stepped() -> None:
    torch = optional("torch")
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    model = thinc.PyTorchWrapper(layer)
    optimizer = fastoptim.thinc.SGD(0.5, momentum=0.5, grad_clip=0.0)
    x = np.ones((1, 2), np.float32)
    for _ in range(2):
        _, backprop = model.begin_update(x)
        backprop(np.ones((1, 1), np.float32))
        model.finish_update(optimizer)
    assert torch.equal(layer.weight.detach(), before - 0.5 - 0.75)


def test_wrong_options() -> None:
    attempts: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: fastoptim.thinc.Adam(-1.0), ValueError, "lr: expected"),
        (lambda: fastoptim.thinc.SGD(0.1, beta1=0.9), TypeError, "beta1"),
        (lambda: fastoptim.thinc.Adm, AttributeError, "no attribute 'Adm'"),
    ]
    for attempt, error, message in attempts:
        with pytest.raises(error, match=message):
            attempt()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")
def test_entry_points_are_those_of_the_registry() -> None:
    """A new optimizer may precede its entry point: ``python docs/tables.py`` writes those of the pages' optimizers."""
    tomllib: Any = import_module("tomllib")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"]["thinc_optimizers"]
    names = {cls.__name__ for cls in OPTIMIZERS}
    assert len(declared) >= 40
    for name, target in declared.items():
        cls = name.split(".")[1]
        assert (name, target) == (f"fastoptim.{cls}.v1", f"fastoptim.thinc:{cls}")
        assert cls in names
        assert callable(getattr(fastoptim.thinc, cls))
    if DECLARED:
        assert {point.name: point.value for point in DECLARED if point.name.startswith("fastoptim.")} == declared


SPACY = """
[nlp]
lang = "en"
pipeline = ["textcat"]

[components]

[components.textcat]
factory = "textcat"

[components.textcat.model]
@architectures = "spacy.TextCatBOW.v3"
exclusive_classes = true
ngram_size = 1
no_output_layer = false
length = 4096

[corpora]

[corpora.train]
@readers = "fastoptim_test_texts.v1"

[corpora.dev]
@readers = "fastoptim_test_texts.v1"

[training]
max_steps = 40
eval_frequency = 20
seed = 0

[training.optimizer]
@optimizers = "fastoptim.AdamW.v1"
learn_rate = 0.01

[training.logger]
@loggers = "spacy.ConsoleLogger.v1"
"""


@needs_metadata
@pytest.mark.filterwarnings("default")  # of spaCy and its dependencies
def test_spacy_trains_a_classifier_by_one_line_of_its_configuration() -> None:
    spacy = optional("spacy")
    from spacy.training import Example
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train

    @spacy.registry.readers("fastoptim_test_texts.v1")  # type: ignore[untyped-decorator]
    def texts() -> Any:
        def read(nlp: Any) -> Iterator[Any]:
            for word in ("good", "fine", "great", "bad", "poor", "awful"):
                cats = {"POSITIVE": float(word in ("good", "fine", "great"))}
                cats["NEGATIVE"] = 1 - cats["POSITIVE"]
                yield Example.from_dict(nlp.make_doc(f"a {word} book"), {"cats": cats})

        return read

    config = spacy.util.load_config_from_str(SPACY)
    nlp, _ = train(init_nlp(spacy.util.load_model_from_config(config, auto_fill=True).config))
    assert nlp("an awful book").cats["NEGATIVE"] > 0.6
    assert nlp("a great book").cats["POSITIVE"] > 0.6
