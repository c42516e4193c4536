"""Write the generated tables of docs/*.md, and the entry points in pyproject.toml.

    python docs/tables.py            write the tables
    python docs/tables.py --check    write nothing; exit with 1 if a page is out of date

A table is the text between the markers ``<!-- NAME: ... -->`` and ``<!-- end of NAME -->`` of a page, comments in
TOML.  The optimizers' table comes from docstrings and class attributes, the accuracies from docs/data/choosing.json.
Bytes per step are counted from the access lists of the compiled rules, which the compiler derives from their
signatures.  The speed tables are made by bench/report.py, not here.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastoptim as fo
from fastoptim.core import RULES

CHECKOUT = Path(__file__).parents[1]
MEASURED = CHECKOUT / "docs" / "data" / "choosing.json"

GROUPS: dict[str, tuple[str, ...]] = {
    "Gradient descent and momentum": ("sgd", "sgdw", "momentum", "nag", "qhm", "aggmo", "msvag", "asgd"),
    "Per-element learning rates": (
        "adagrad",
        "rmsprop",
        "rmsprop_graves",
        "adadelta",
        "smorms3",
        "ftrl",
        "madgrad",
        "rprop",
    ),
    "Adam and its descendants": (
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "radam",
        "yogi",
        "adabelief",
        "adabound",
        "qhadam",
        "laprop",
        "adan",
        "adopt",
        "ademamix",
        "stable_adamw",
        "mars",
    ),
    "Sign-based": ("signsgd", "signum", "lion", "tiger"),
    "Layer-wise norms and trust ratios": ("lars", "lamb", "novograd"),
    "Embedding tables": ("rowwise_adagrad", "rowwise_adam"),
    "Tuning-free and schedule-free": ("prodigy", "schedule_free_sgd", "schedule_free_adamw"),
    "Second-order (diagonal Hessian)": ("sophia",),
}

# ---- memory traffic of a step


def bytes_moved(cls: type[fo.Optimizer], variant: str) -> int:
    """Return the bytes that all passes read and write for each element of a float32 parameter with its gradient."""
    rule, float32 = RULES[variant], np.dtype(np.float32)
    sizes = [4, 4, *(cls.state_schema[name].dtype_for(float32).itemsize for name in rule.state)]
    passes = [accesses for accesses in (rule.reduces, rule.updates) if accesses]
    return sum(size * len(access) for accesses in passes for size, access in zip(sizes, accesses, strict=True))


# ---- the optimizers


def summary(cls: type[fo.Optimizer]) -> str:
    """Return the docstring's first line without the class name and the full stop."""
    first = (inspect.getdoc(cls) or "").splitlines()[0].removesuffix(".")
    head, colon, rest = first.partition(": ")
    text = rest if colon and re.sub(r"\W", "", head).lower() == cls.__name__.lower() else first
    return text[0].upper() + text[1:]


def source(cls: type[fo.Optimizer]) -> str:
    """Return the docstring's source, without titles and with links."""
    found = re.search(r"^Source: ((?:.+\n)+)", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"{cls.__name__}: no source")
    text = re.sub(r"\.\s(?=\s*[A-Z`]).*", "", found[1].replace("\n", " ").strip()).removesuffix(".")
    text = re.sub(r'(?<=,) "[^"]*",', "", text)
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r"https?://(\S+?)(?=[;,.]?(?:\s|$))", r"[\1](https://\1)", text)
    text = re.sub(r"(?<!/)\bsifter\.org/[^\s;]+", r"[sifter.org](https://\g<0>)", text)
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\d+/[^\s;]*[^\s;,])", lambda doi: f"[{doi[0]}]({address(doi[1])})", text)


def address(doi: str) -> str:
    """Return the URL of a DOI, with parentheses escaped so that Markdown accepts it as a link target."""
    return "https://doi.org/" + doi.replace("(", "%28").replace(")", "%29")


def plain_state(cls: type[fo.Optimizer]) -> tuple[str, ...]:
    """Return the names of the state arrays with default options."""
    return cls.check_options({}).state


def named(names: Iterable[str], cls: type[fo.Optimizer]) -> str:
    """Return the names as Markdown: state that is no array of elements in italics, arrays as code."""
    return ", ".join(f"`{name}`" if has_elements(cls, name) else f"*{name}*" for name in names)


def has_elements(cls: type[fo.Optimizer], name: str) -> bool:
    """Return whether a state array has a number for each element of the parameter."""
    return cls.state_schema[name].kind.keeps_layout


def state(cls: type[fo.Optimizer]) -> str:
    """Return the number of state arrays and their names; those that options add are in brackets."""
    own = plain_state(cls)
    most = max(sum(has_elements(cls, name) for name in names) for names in cls.variants.values())
    count = sum(has_elements(cls, name) for name in own)
    more = [name for name in cls.state if name not in own]
    listed = " ".join(filter(None, (named(own, cls), f"({named(more, cls)})" if more else "")))
    counted = f"{count} to {most}" if most > count else str(count)
    return f"{counted}: {listed}" if listed else counted


def moved(cls: type[fo.Optimizer]) -> str:
    """Return the bytes per element with the default options, and the maximum over all variants."""
    plain = bytes_moved(cls, cls.check_options({}).variant)
    most = max(bytes_moved(cls, variant) for variant in cls.variants)
    return f"{plain} to {most}" if most > plain else str(plain)


def optimizers() -> str:
    """Return one table of optimizers per group."""
    headers = ("class", "method", "`lr`", "state arrays", "bytes", "conventions", "source")
    parts = []
    for title, names in GROUPS.items():
        rows = []
        for cls in (fo.OPTIMIZERS[name] for name in names):
            rate = f"{cls.defaults['lr']:g}"
            conventions = ", ".join(cls.conventions)
            rows.append((f"`{cls.__name__}`", summary(cls), rate, state(cls), moved(cls), conventions, source(cls)))
        parts.append(f"## {title}\n\n{table(headers, rows)}")
    return "\n\n".join(parts)


# ---- measured accuracies


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # `sum` differs between versions of Python


def measured() -> str:
    """Return the table of accuracies in docs/data/choosing.json, best first, by learning rate."""
    data: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    factors = [str(factor) for factor in data["factors"]]
    headers = ["class", "setting", "accuracy", "min to max"] + [f"`lr` x {f}" for f in factors if f != "1"]
    rows = []
    for name, result in sorted(data["results"].items(), key=lambda item: -mean(item[1]["accuracy"]["1"])):
        at_setting = result["accuracy"]["1"]
        setting = ", ".join(f"{option} {value}" for option, value in result["setting"].items())
        row = [f"`{fo.OPTIMIZERS[name].__name__}`", setting, f"**{percent(mean(at_setting))}**"]
        row.append(f"{percent(min(at_setting))} to {percent(max(at_setting))}")
        rows.append(row + [percent(mean(result["accuracy"][f])) for f in factors if f != "1"])
    return table(headers, rows)


# ---- pages


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def state_formats() -> str:
    """Return which state arrays of each optimizer `state_format` compresses."""
    rows = []
    for cls in (fo.OPTIMIZERS[name] for names in GROUPS.values() for name in names):
        own = {name: cls.state_schema[name] for name in cls.state}
        codes = {name: array.compress_for(cls.defaults) for name, array in own.items()}
        cells = [
            ", ".join(f"`{name}`" for name in own if codes[name] == code) for code in ("signed", "non-negative", None)
        ]
        if own:
            rows.append([f"`{cls.__name__}`", *cells])
    return table(["optimizer", "signed", "non-negative", "native"], rows)


def entry_points() -> str:
    """Return the names by which thinc and spaCy find the optimizers."""
    classes = (fo.OPTIMIZERS[name].__name__ for names in GROUPS.values() for name in names)
    return "\n".join(f'"fastoptim.{name}.v1" = "fastoptim.thinc:{name}"' for name in sorted(classes))


def recipe(example: str, heading: str, imports: str, use: str) -> str:
    """Return a section of an example as a block of code that can be run."""
    source = (CHECKOUT / "examples" / example).read_text(encoding="utf-8")
    section = source.split(f"# ---- {heading}\n")[1].split("\n# ---- ")[0].strip()
    return f"```python\n{imports}\n\n\n{re.sub(r'  # type: ignore.*', '', section)}\n\n\n{use}\n```"


NETWORK_IMPORTS = """import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

import fastoptim as fo

Array: TypeAlias = npt.NDArray[np.floating]
Layers: TypeAlias = list[dict[str, Array]]"""

NETWORK_USE = """x, y = load_digits(return_X_y=True)
x = x.astype(np.float32) / 16
rates = {fo.SGD: 0.15, fo.Momentum: 0.03, fo.Adagrad: 0.04, fo.RMSprop: 1e-3, fo.Adam: 2e-3}
for cls, lr in rates.items():
    rng = np.random.default_rng(0)
    layers = init((64, 128, 10), rng)
    opt = cls(layers, lr=lr)
    for epoch in range(5):
        for batch in batches(1437, 32, rng):
            activations = forward(layers, x[batch])
            z = activations[-1]
            error = np.exp(z - z.max(axis=1, keepdims=True))
            error /= error.sum(axis=1, keepdims=True)  # softmax
            error[np.arange(len(batch)), y[batch]] -= 1
            opt.step(backward(layers, activations, error / len(batch)))
    accuracy = (forward(layers, x[1437:])[-1].argmax(axis=1) == y[1437:]).mean()
    print(f"{cls.__name__:10} {accuracy:.3f}")
    assert accuracy > 0.85"""

SCIKIT_LEARN_IMPORTS = """from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import fastoptim as fo"""

SCIKIT_LEARN_USE = """x, y = load_digits(return_X_y=True)
options = {"batch_size": 100, "tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
theirs = MLPClassifier((32,), **options).fit(x, y)
ours = FastMLPClassifier((32,), **options).fit(x, y)
assert np.allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)"""

FLOWER_IMPORTS = """from collections.abc import Iterable
from typing import Any

from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

import fastoptim as fo"""

FLOWER_USE = """strategy = Federated(fo.Adam, {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-3}, fraction_train=0.5)"""

PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "docs/optimizers.md": {"optimizers": optimizers},
    "docs/choosing.md": {"measured": measured},
    "docs/compressed_state.md": {"formats": state_formats},
    "docs/other_libraries.md": {
        "scikit-learn": lambda: recipe("scikit_learn.py", "the recipe", SCIKIT_LEARN_IMPORTS, SCIKIT_LEARN_USE),
        "Flower": lambda: recipe("federated.py", "the server's strategy", FLOWER_IMPORTS, FLOWER_USE),
    },
    "docs/tutorials/network.md": {"network": lambda: recipe("common.py", "the network", NETWORK_IMPORTS, NETWORK_USE)},
    "pyproject.toml": {"thinc": entry_points},
}


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return the page with its tables replaced by newly made ones."""
    for name, make in tables.items():
        between = re.compile(rf"((?:<!--|#) {name}: [^\n]*\n).*?((?:<!--|#) end of {name}[^\n]*\n)", flags=re.DOTALL)
        if len(between.findall(text)) != 1:
            raise ValueError(f"expected one place between the markers {name!r} and 'end of {name}'")
        (place,) = between.finditer(text)
        text = f"{text[: place.start()]}{place[1]}\n{make()}\n\n{place[2]}{text[place.end() :]}"
    return text


def update(pages: Mapping[str, Mapping[str, Callable[[], str]]], *, check: bool = False) -> bool:
    """Write the tables of the pages, unless `check`; return whether a page was out of date."""
    old = []
    for page, tables in pages.items():
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        if (made := filled(text, tables)) != text:
            old.append(page)
            if not check:
                (CHECKOUT / page).write_text(made, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(old)}" if old else "up to date")
    return bool(old)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    grouped = {name for names in GROUPS.values() for name in names}
    if missing := sorted(fo.OPTIMIZERS.keys() - grouped):
        print(f"in no group, so in no table: {', '.join(missing)}")
    return int(update(PAGES, check=check) and check)


if __name__ == "__main__":
    sys.exit(main())
