"""The examples: every optimizer learns the digits, and scikit-learn learns the same.  Some ten seconds in all."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import CHECKOUT, assert_same_bits
from loops import loop
from mpi_jobs import run as run_job
from optional import optional

EXAMPLES = CHECKOUT / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs examples/: these tests run in a checkout")


@pytest.fixture(scope="module")
def examples() -> Iterator[Callable[[str], ModuleType]]:
    """Import an example by its name."""
    for library in ("sklearn", "matplotlib", "tqdm"):
        optional(library)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield import_module
    for name in {path.stem for path in EXAMPLES.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_every_optimizer_learns_the_digits_at_its_setting(name: str, examples: Callable[[str], ModuleType]) -> None:
    digits = examples("digits")
    data = digits.load()
    run = digits.Run(name, digits.setting_of(name, 1.0))
    accuracies = []
    for layers in islice(digits.training(run, data, batch_size=32, seed=0), 41):
        accuracies.append(digits.evaluate(layers, data.test_x, data.test_y)[1])
        if accuracies[-1] >= 0.93:
            return
    pytest.fail(f"{max(accuracies):.3f} is the best of {len(accuracies) - 1} epochs")


# ---- scikit-learn's classifier with fastoptim's updates

OPTIONS: list[dict[str, Any]] = [
    {"solver": "adam", "beta_1": 0.8, "epsilon": 1e-4},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
    {"solver": "sgd", "learning_rate": "invscaling", "nesterovs_momentum": False},
    {"solver": "adam", "early_stopping": True, "n_iter_no_change": 2, "tol": 0.01},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_scikit_learn_learns_the_same_with_our_updates(
    options: dict[str, Any], examples: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    recipe = examples("scikit_learn")
    x, y = recipe.load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    models = []
    for made in recipe.CLASSES.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", recipe.ConvergenceWarning)
            model = made((16,), max_iter=15, batch_size=50, random_state=0, **options).fit(x, y)
        if not model.early_stopping:  # which scikit-learn does not continue
            optional("joblib").dump(model, tmp_path / "model")
            model = optional("joblib").load(tmp_path / "model")
            for _ in range(3):
                model.partial_fit(x, y)
        models.append(model)
    assert len(models[0].loss_curve_) > 3
    np.testing.assert_allclose(models[1].loss_curve_, models[0].loss_curve_, rtol=1e-6)
    for theirs, ours in zip(models[0].coefs_, models[1].coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert models[1]._optimizer.update_params.opt.step_count > 0


# ---- Optuna and Flower


@pytest.mark.parametrize("how", ["grid", "random", "Bayesian (TPE)"])
def test_optuna_searches(how: str, examples: Callable[[str], ModuleType]) -> None:
    optional("optuna")
    tuning = examples("tuning")
    args = Namespace(optimizer="adamw", trials=9, epochs=1, seed=0)
    tuning.optuna.logging.set_verbosity(tuning.optuna.logging.WARNING)
    progress = tuning.tqdm(disable=True)
    study = tuning.search(tuning.samplers(args)[how], examples("digits").load(), args, progress)
    settings = {tuple(trial.params.values()) for trial in study.trials}
    assert len(settings) == 9
    assert (len({lr for lr, _ in settings}) == 3) == (how == "grid")
    assert study.best_value < 2


def test_flower_has_the_same_numbers_as_its_own_strategies(examples: Callable[[str], ModuleType]) -> None:
    optional("flwr")
    example = examples("federated")
    strategy = import_module("flwr.serverapp.strategy")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    data, progress = example.load(), example.tqdm(disable=True)
    args = Namespace(clients=4, rounds=5, seed=0)
    eta, b1, b2, tau = 0.1, 0.9, 0.99, 1e-2

    def corrected(step: int) -> float:
        """Flower corrects with the exponent of the round after, from 2 on."""
        return eta * float(np.sqrt(1 - b2 ** (step + 2)) / (1 - b1 ** (step + 2)))

    adam = {"lr": corrected, "betas": (b1, b2), "eps": tau, "bias_correction": False}
    settings = {"eta": eta, "beta_1": b1, "beta_2": b2, "tau": tau}
    for theirs, (cls, options) in [
        (strategy.FedAvg(fraction_evaluate=0.0), (fo.SGD, {"lr": 1.0})),
        (strategy.FedAdam(fraction_evaluate=0.0, **settings), (fo.Adam, adam)),
        (
            strategy.FedAvgM(fraction_evaluate=0.0, server_learning_rate=0.5, server_momentum=0.9),
            (fo.Momentum, {"lr": 0.5, "momentum": 0.9, "form": "heavy_ball"}),
        ),
    ]:
        ours = example.Federated(cls, options, fraction_evaluate=0.0)
        expected, found = (np.array(example.federate(each, data, args, progress)) for each in (theirs, ours))
        assert expected[-1, 0] < expected[0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_any_number_of_processes_trains_the_same_network(examples: Callable[[str], ModuleType], tmp_path: Path) -> None:
    arguments = ["--epochs", "2", "--output", str(tmp_path / "picture.png")]
    said = "".join(run_job(ranks, *arguments, program=EXAMPLES / "digits_mpi.py") for ranks in (1, 3))
    digests = re.findall(r"parameters (\w+)", said)
    assert len(digests) == 4
    assert len(set(digests)) == 1


# ---- word vectors, splatting and the beam


def check_gradients(
    loss: Callable[[], float], parameters: dict[str, Any], gradients: dict[str, Any], rtol: float = 1e-5
) -> None:
    """Compare gradients with central differences of the loss along random directions."""
    rng = np.random.default_rng(1)
    for name, p in parameters.items():
        direction, before, ends = rng.standard_normal(p.shape), p.copy(), []
        for sign in (1, -1):
            p[...] = before + sign * 1e-6 * direction
            ends.append(loss())
        p[...] = before
        expected = (ends[0] - ends[1]) / 2e-6
        assert np.isclose(np.vdot(gradients[name], direction), expected, rtol=rtol, atol=1e-9), (name, expected)


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Namespace]:
    """Return an example's arguments for a short run."""

    def parse(example: ModuleType, name: str) -> Namespace:
        monkeypatch.setattr(sys, "argv", [name, *shlex.split(SHORT[name])])
        return example.parse()  # type: ignore[no-any-return]

    return parse


def test_word_vectors_have_the_gradients_of_their_loss(examples: Callable[[str], ModuleType]) -> None:
    example, rng = examples("word_vectors"), np.random.default_rng(0)
    vectors = {name: rng.standard_normal((9, 4)) for name in ("words", "neighbors")}
    words, targets = rng.integers(0, 9, 12), rng.integers(0, 9, (12, 3))
    _, rows = example.loss_and_gradients(vectors, words, targets)
    whole = {name: example.dense(*each, 9) for name, each in rows.items()}
    check_gradients(lambda: 12 * example.loss_and_gradients(vectors, words, targets)[0], vectors, whole)


def test_rows_learn_word_vectors_as_dense_steps_do(examples: Callable[[str], ModuleType], arguments: Any) -> None:
    """Adagrad's in the same bits; Adam's rows without the fading moments of absent words."""
    example = examples("word_vectors")
    args = arguments(example, "word_vectors")
    args.steps = 30
    trained = example.train(example.read(list(example.docstrings(args.packages)), args.min_count), args)
    for name in ("words", "neighbors"):
        dense, rows = (trained[f"Adagrad, {form}"].vectors[name] for form in ("dense", "rows"))
        assert_same_bits(dense, rows)
        assert np.any(trained["Adam, dense"].vectors[name] != trained["Adam, rows"].vectors[name])
    for variant in trained.values():
        assert np.mean(variant.losses[-3:]) < np.mean(variant.losses[:3])


def test_the_beam_has_the_sensitivities_of_its_loss(examples: Callable[[str], ModuleType]) -> None:
    example = examples("topology")
    beam, constraint = example.Beam(12, 5, 1.5), example.Constraint(0.4)
    densities = np.random.default_rng(0).uniform(0.2, 0.9, beam.shape)
    _, _, gradient = example.evaluate(beam, densities, constraint)
    p = {"densities": densities}
    check_gradients(lambda: float(example.evaluate(beam, densities, constraint)[0]), p, {"densities": gradient})


def test_bounds_design_the_beam_as_clipping_does(examples: Callable[[str], ModuleType], arguments: Any) -> None:
    example = examples("topology")
    run = example.optimize(arguments(example, "topology"))
    assert run.same_bits
    assert run.compliance[-1] < 0.5 * run.compliance[0]
    assert abs(run.volume[-1] - 0.5) < 0.02
    final = list(run.designs.values())[-1]
    assert (final.min(), final.max()) == (0, 1)


@pytest.fixture
def gaussians(examples: Callable[[str], ModuleType]) -> dict[str, Any]:
    """Forty Gaussians in an image of 32 x 48 pixels, which differ in every number."""
    rng = np.random.default_rng(0)
    made = examples("splatting").scattered(rng.random((32, 48, 3)), 40, rng)
    return {name: p + 0.3 * rng.standard_normal(p.shape) for name, p in made.items()}


def test_tiles_show_the_gaussians_from_front_to_back(
    examples: Callable[[str], ModuleType], gaussians: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = examples("splatting")
    monkeypatch.setattr(example, "REACH", 100)  # in every tile
    expected, left = np.zeros((32, 48, 3)), np.ones((32, 48, 1))
    places = np.stack(np.meshgrid(np.arange(48), np.arange(32)), axis=-1) + 0.5
    for place, log_width, angle, color, logit in zip(*(gaussians[name] for name in example.RATES), strict=True):
        turn = np.array([[np.cos(angle[0]), np.sin(angle[0])], [-np.sin(angle[0]), np.cos(angle[0])]])
        precision = turn.T @ np.diag(np.exp(-2 * log_width)) @ turn
        power = np.einsum("yxi,ij,yxj->yx", places - place, precision, places - place)[..., None]
        alpha = np.minimum(np.exp(-power / 2) / (1 + np.exp(-logit)), example.OPAQUE)
        expected += left * alpha * color
        left *= 1 - alpha
    np.testing.assert_allclose(example.draw_image(gaussians, 32, 48), expected, atol=1e-6)


def test_splatting_has_the_gradients_of_its_loss(
    examples: Callable[[str], ModuleType], gaussians: dict[str, Any]
) -> None:
    example = examples("splatting")
    gaussians["logit"][:3] = 8  # more opaque than a pixel may be
    image, crop = np.random.default_rng(1).random((32, 48, 3)), (16, 0, 32, 16)
    _, visible, rows = example.loss_and_gradients(gaussians, image, crop)
    assert 0 < len(visible) < 40
    whole = {name: np.zeros_like(p) for name, p in gaussians.items()}
    for name, gradient in rows.items():
        whole[name][visible] = gradient
    check_gradients(lambda: float(example.loss_and_gradients(gaussians, image, crop)[0]), gaussians, whole)


def test_transparent_gaussians_go_and_those_with_large_gradients_split(
    examples: Callable[[str], ModuleType], gaussians: dict[str, Any]
) -> None:
    example, args = examples("splatting"), Namespace(most=42, transparent=0.05)
    gaussians["logit"][[5, 6]] = -4
    pull = np.zeros(40)
    pull[[3, 6, 17, 30, 39]] = [2, 9, 3, 4, 5]
    opt = example.make_optimizer(gaussians, 10)
    opt.step([{name: np.ones_like(gaussians[name])} for name in example.RATES])
    new, source = example.changed(gaussians, pull, args, np.random.default_rng(0))
    origin = [i for i in range(40) for _ in range(0 if i in (5, 6) else 2 if i in (3, 17, 30, 39) else 1)]
    assert source.tolist() == [-1 if i in (3, 17, 30, 39) else i for i in origin]
    assert_same_bits(new["color"], gaussians["color"][origin])
    assert np.all((new["log_width"] < gaussians["log_width"][origin]) == (source < 0)[:, None])
    opt.remap([{name: new[name]} for name in example.RATES], [dict.fromkeys([name], source) for name in example.RATES])
    assert opt.state[0]["position"]["row_steps"].tolist() == (source >= 0).tolist()


def test_splatting_approaches_the_photograph(examples: Callable[[str], ModuleType], arguments: Any) -> None:
    example = examples("splatting")
    args = arguments(example, "splatting")
    run = example.fit(example.photograph(args.reduction), args)
    assert run.psnr[args.steps] > run.psnr[0] + 3
    assert args.count < len(run.gaussians["angle"]) == list(run.changes.values())[-1][2]
    assert 0 <= run.gaussians["color"].min() <= run.gaussians["color"].max() <= 1


# ---- the commands on the pages


PAGES = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")]
COMMAND = re.compile(r"python examples/(\w+)\.py([^`\n]*)")
COMMANDS = sorted({found for page in PAGES for found in COMMAND.findall(page.read_text(encoding="utf-8"))})


NEEDS = {"tuning": "optuna", "federated": "flwr", "transformer": "torch", "compressed": "torch"}


def test_the_pages_have_commands_of_examples() -> None:
    assert {"regression", "landscapes", "digits", "schedules", "choosing"} <= {name for name, _ in COMMANDS}


@loop(("name", "arguments"), [command for command in COMMANDS if command[0] != "digits_mpi"])
def test_an_example_accepts_the_pages_command(
    name: str, arguments: str, examples: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    optional(NEEDS.get(name, "sklearn"))
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
    assert examples(name).parse().output.suffix == ".png"


WRONG = [
    *(("digits", wrong) for wrong in ("--seed -1", "--threads 9999", "--epochs 0", "--epochs 1e3", "--output x.txt")),
    *(("digits", f"--output {wrong}") for wrong in (".", "/dev/null/x.png")),
    ("choosing", "--from missing.json"),
    ("choosing", "--from docs"),
    ("regression", "--seed x"),
    *(("splatting", wrong) for wrong in ("--reduction 100", "--transparent nan", "--transparent 1", "--seed -3")),
    *(("topology", wrong) for wrong in ("--radius 0", "--volume 1.5", "--lr -1", "--lr inf")),
    *(("word_vectors", wrong) for wrong in ("--packages no_such_package", "--packages math", "--lr-adam x")),
    ("transformer", "--width 6"),
    ("compressed", "--width 6"),
    ("compressed", "--optimizer sgd"),
    ("federated", "--seed -1"),
    ("tuning", "--seed 1.5"),
]


@loop(("name", "arguments"), WRONG)
def test_wrong_arguments_are_one_line(
    name: str,
    arguments: str,
    examples: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        return
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
    with pytest.raises(SystemExit) as caught:
        examples(name).parse()
    assert caught.value.code == 2
    option = arguments.split()[0]
    assert re.search(rf"error: argument {option}: .*\n\Z", capsys.readouterr().err)


SHORT = {
    "regression": "--epochs 1",
    "landscapes": "--steps 2",
    "schedules": "--steps 60",
    "muon": "--epochs 1 --seeds 1",
    "transformer": "--steps 3 --seeds 1 --width 8 --length 8 --batch 2",
    "compressed": "--quick",
    "poisson": "--gradients 12 --seeds 1",
    "word_vectors": "--packages numpy --min-count 50 --dimensions 8 --batch-size 64 --steps 5 --words 20",
    "splatting": "--reduction 13 --count 40 --most 60 --steps 40 --every 10 --crop 1",
    "topology": "--width 24 --height 8 --radius 1.5 --steps 40 --rounds 2",
    "choosing": f"--from {CHECKOUT / 'docs/data/choosing.json'}",
}


@pytest.mark.parametrize("name", SHORT)
def test_an_example_draws(
    name: str, examples: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optional(NEEDS.get(name, "sklearn"))
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(SHORT[name]), "--output", str(picture)])
    examples(name).main()
    assert picture.stat().st_size > 10_000


@pytest.mark.exhaustive
def test_compressed_state_learns_the_digits_as_well(examples: Callable[[str], ModuleType]) -> None:
    """By every optimizer that compresses, the mean accuracy over five seeds is within the range of float32."""
    optional("torch")
    example = examples("compressed")
    args, data, bar = Namespace(seeds=5, epochs=10), examples("digits").load(), example.tqdm(disable=True)
    assert len(example.COMPRESSING) > 30
    wrong = []
    for name in example.COMPRESSING:
        found = example.accuracies(name, args, data, bar)
        low, high = found[example.BASE].min(), found[example.BASE].max()
        wrong += [(name, form) for form in example.OTHERS if not low <= found[form].mean() <= high]
    assert wrong == []


def test_every_example_has_its_picture_in_the_gallery() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"common"}
    assert names - {path.stem for path in (CHECKOUT / "docs/images").glob("*.png")} == set()
