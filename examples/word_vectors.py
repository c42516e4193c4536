"""Learn word vectors from docstrings by skip-gram with negative sampling, with steps of rows and with dense steps.

Each word has two vectors, and a batch contains few words, so that the gradient of a table of vectors is `fo.Rows`
(Mikolov et al., "Distributed Representations of Words and Phrases", 2013, arXiv:1310.4546).  The variants take their
steps in turn on the same batches, so that the ratios of their times are reliable; the times are medians.  Adagrad's
rows give the bits of its dense steps, because a gradient of zero changes nothing.  Adam's differ: in a dense step the
moments of absent words fade and move their vectors.  On a busy machine, --cpu counts the processor time instead.

The text is the docstrings of NumPy, SciPy, scikit-learn and matplotlib as installed here: 1.4 million words without a
download, in which the terms of mathematics and of Python occur often enough for a small run.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
from common import Array, label_ends, look, make_parser, natural, number, panels, positive, save, table
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.manifold import TSNE
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

# ---- the text

PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib")
DOCSTRING = re.compile(r'"""(.*?)"""', flags=re.DOTALL)
CODE = re.compile(r"^ *(?:>>>|\.\.\.).*$", flags=re.MULTILINE)
WORD = re.compile(r"[a-z]{2,}")
MOST_COMMON = 100  # the fewest words with which this makes sense


class Text(NamedTuple):
    """The words by frequency, their counts, and the text as indices of words; `document` numbers the docstrings."""

    words: list[str]
    counts: Array
    ids: Any
    document: Any


def docstrings(packages: Sequence[str]) -> Iterator[str]:
    """Yield the docstrings of installed packages, without their tests."""
    for package in packages:
        for path in sorted(Path(str(files(package))).rglob("*.py")):
            if "tests" not in path.parts:
                yield from DOCSTRING.findall(path.read_text(encoding="utf-8", errors="replace"))


def read(texts: Sequence[str], min_count: int) -> Text:
    documents = [WORD.findall(CODE.sub("", text).lower()) for text in texts]
    frequent = [
        pair for pair in Counter(word for each in documents for word in each).most_common() if pair[1] >= min_count
    ]
    index = {word: i for i, (word, _) in enumerate(frequent)}
    ids = [(index[word], number) for number, each in enumerate(documents) for word in each if word in index]
    columns = np.array(ids, np.int32).reshape(-1, 2).T
    return Text(list(index), np.array([count for _, count in frequent], float), columns[0], columns[1])


def thinned(text: Text, rng: np.random.Generator) -> Text:
    """Leave out most of the very frequent words: word i is kept with probability sqrt(0.0005 / its share)."""
    share = text.counts / text.counts.sum()
    kept = rng.random(len(text.ids)) < np.sqrt(5e-4 / share)[text.ids]
    return text._replace(ids=text.ids[kept], document=text.document[kept])


def batches(text: Text, args: Namespace, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield words and, for each, a word next to it followed by `args.negatives` random words."""
    noise = np.cumsum(text.counts**0.75)
    for _ in range(args.steps):
        place = rng.integers(args.window, len(text.ids) - args.window, 2 * args.batch_size)
        distance = rng.integers(1, args.window, len(place), endpoint=True) * rng.choice((-1, 1), len(place))
        near = place + distance
        place, near = (each[text.document[place] == text.document[near]][: args.batch_size] for each in (place, near))
        random = np.searchsorted(noise, rng.random((len(place), args.negatives)) * noise[-1])
        yield text.ids[place], np.column_stack([text.ids[near], random])


# ---- the model


def loss_and_gradients(
    vectors: dict[str, Array], words: Any, targets: Any
) -> tuple[float, dict[str, tuple[Any, Array]]]:
    """Return the mean loss of the pairs, and for each table an index of rows and the gradients of the summed loss.

    The loss of a pair is the cross-entropy of deciding which of the targets is the true neighbor, one by one.
    """
    word, target = vectors["words"][words], vectors["neighbors"][targets]
    scores = np.einsum("bd,btd->bt", word, target)
    sign = np.ones(targets.shape[1], np.float32)
    sign[0] = -1
    loss = np.logaddexp(0, sign * scores).sum(axis=1).mean()
    error = (1 + np.tanh(scores / 2)) / 2 - (sign < 0)
    of_targets = error[:, :, None] * word[:, None]
    return float(loss), {
        "words": (words, np.einsum("bt,btd->bd", error, target)),
        "neighbors": (targets.ravel(), of_targets.reshape(-1, word.shape[1])),
    }


def dense(index: Any, values: Array, count: int) -> Any:
    """Return the gradient of the whole table, by a sparse matrix product that adds repeated rows in their order."""
    ones = np.ones(len(index), np.float32)
    return csr_array((ones, (index, np.arange(len(index)))), shape=(count, len(index))) @ values


def as_rows(index: Any, values: Array, count: int) -> Any:
    return fo.Rows(index, values)


# ---- the comparison


class Variant:
    """A pair of tables with its optimizer, and the form of its gradients."""

    def __init__(self, start: dict[str, Array], make: Callable[..., fo.Optimizer], form: Any, **options: Any) -> None:
        self.vectors = {name: each.copy() for name, each in start.items()}
        self.opt, self.form = make(self.vectors, **options), form
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, words: Any, targets: Any, clock: Callable[[], float]) -> None:
        loss, grads = loss_and_gradients(self.vectors, words, targets)
        begin = clock()
        self.opt.step({name: self.form(*rows, len(self.vectors[name])) for name, rows in grads.items()})
        self.seconds.append(clock() - begin)
        self.losses.append(loss)


def variants(count: int, args: Namespace, rng: np.random.Generator) -> dict[str, Variant]:
    first = rng.uniform(-0.5, 0.5, (count, args.dimensions)).astype(np.float32) / args.dimensions
    start = {"words": first, "neighbors": np.zeros_like(first)}
    return {
        "Adagrad, dense": Variant(start, fo.Adagrad, dense, lr=args.lr_adagrad),
        "Adagrad, rows": Variant(start, fo.Adagrad, as_rows, lr=args.lr_adagrad),
        "Adam, dense": Variant(start, fo.Adam, dense, lr=args.lr_adam),
        "Adam, rows": Variant(start, fo.Adam, as_rows, lr=args.lr_adam),
        "Adam, row_steps": Variant(start, fo.Adam, as_rows, lr=args.lr_adam, row_steps=True),
    }


def train(text: Text, args: Namespace) -> dict[str, Variant]:
    rng = np.random.default_rng(args.seed)
    trained = variants(len(text.words), args, rng)
    clock = process_time if args.cpu else perf_counter
    for words, targets in tqdm(batches(thinned(text, rng), args, rng), total=args.steps, unit="step"):
        for variant in trained.values():
            variant.step(words, targets, clock)
    return trained


def smoothed(losses: Sequence[float], window: int) -> Array:
    """Return the means over `window` steps."""
    return np.convolve(losses, np.full(window, 1 / window), "valid")


def report(trained: dict[str, Variant], window: int) -> str:
    rows = []
    for name, variant in trained.items():
        seconds = np.median(variant.seconds)
        ratio = np.median(trained[f"{name.split(',')[0]}, dense"].seconds) / seconds
        rows.append((name, f"{smoothed(variant.losses, window)[-1]:.4f}", f"{seconds * 1e3:.3f} ms", f"{ratio:.1f}"))
    return table(("variant", "loss at the end", "gradient and step", "times as fast as dense"), rows)


# ---- the vectors

QUERIES = ("mean", "matrix", "red", "float", "rows", "plot", "train", "minimum", "first", "gaussian")


def directions(vectors: Array) -> Any:
    """Return the vectors from their mean, with length 1."""
    centered = vectors - vectors.mean(axis=0)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


def neighbors(text: Text, vectors: Array, count: int = 5) -> str:
    """Return a table of the words with the largest cosines, among those that occur 50 times."""
    common = int((text.counts >= 50).sum())
    unit = directions(vectors[:common])
    rows = []
    for word in (word for word in QUERIES if word in text.words[:common]):
        cosines = unit @ unit[text.words.index(word)]
        best = np.argsort(-cosines)[1 : count + 1]
        rows.append((word, *(f"{text.words[i]} {cosines[i]:.2f}" for i in best)))
    return table(("word", *("nearest" if i == 0 else "" for i in range(count))), rows, text_columns=count + 1)


def draw(text: Text, trained: dict[str, Variant], args: Namespace) -> None:
    title = f"Word vectors from docstrings: {len(text.words):,} words, {args.dimensions} dimensions"
    figure, (left, right) = panels(2, 12, 5.4, title, shares=(5, 8))
    window = window_of(args)
    curves = {name: smoothed(variant.losses, window) for name, variant in trained.items()}
    left.set(title=f"Loss, mean over {window} steps", xlabel="step", xlim=(0, args.steps))
    for i, (name, curve) in enumerate(curves.items()):
        left.plot(np.arange(window, args.steps + 1), curve, **look(i), linewidth=4 if name == "Adagrad, dense" else 1.6)
    label_ends(left, list(curves.items()))
    draw_map(right, text, trained["Adagrad, rows"].vectors["words"], args)
    save(figure, args.output)


def draw_map(axes: Any, text: Text, vectors: Array, args: Namespace) -> None:
    """Draw common words where t-SNE puts them, in the colors of their clusters; of labels that overlap, the first."""
    shown = [i for i, word in enumerate(text.words) if len(word) > 3 and word not in ENGLISH_STOP_WORDS][: args.words]
    unit = directions(vectors)[shown]
    places = TSNE(perplexity=min(8, (len(shown) - 1) / 3), metric="cosine", random_state=args.seed).fit_transform(unit)
    clusters = KMeans(min(8, len(shown)), random_state=args.seed, n_init=4).fit_predict(unit)
    axes.set(title="Frequent words by t-SNE, with colors of clusters", xticks=[], yticks=[])
    axes.scatter(*places.T, s=0)  # only for the limits
    axes.spines[:].set_visible(False)
    axes.figure.draw_without_rendering()  # the layout, on which the labels' extents depend
    taken: list[Any] = []
    for i, (x, y), cluster in zip(shown, places, clusters, strict=True):
        label = axes.text(x, y, text.words[i], color=look(cluster)["color"], ha="center", va="center", fontsize=8.5)
        extent = label.get_window_extent().padded(2)
        if any(extent.overlaps(other) for other in taken):
            label.remove()
        else:
            taken.append(extent)


def window_of(args: Namespace) -> int:
    return min(100, int(args.steps))


def package(name: str) -> str:
    """Parse the name of an installed package, for argparse."""
    if not name.isidentifier() or getattr(find_spec(name), "submodule_search_locations", None) is None:
        raise ArgumentTypeError(f"expected an installed package, got {name!r}")
    return name


def parse() -> Namespace:
    parser = make_parser(__doc__, "word_vectors.png")
    add = parser.add_argument
    add(
        "--packages", nargs="+", type=package, default=PACKAGES, help=f"packages to read (default {' '.join(PACKAGES)})"
    )
    add("--steps", type=positive, metavar="N", default=2000, help="batches (default 2000)")
    add("--batch-size", type=positive, metavar="N", default=512, help="pairs in a batch (default 512)")
    add("--dimensions", type=positive, metavar="N", default=64, help="length of the vectors (default 64)")
    add("--window", type=positive, metavar="N", default=4, help="words to each side of a word (default 4)")
    add("--negatives", type=positive, metavar="N", default=5, help="random words of each pair (default 5)")
    add("--min-count", type=positive, metavar="N", default=5, help="drop words that are rarer (default 5)")
    add("--words", type=positive, metavar="N", default=220, help="words on the map (default 220)")
    add("--lr-adagrad", type=number(0, 1000), metavar="X", default=0.1, help="learning rate of Adagrad (default 0.1)")
    add("--lr-adam", type=number(0, 1000), metavar="X", default=0.005, help="learning rate of Adam (default 0.005)")
    add("--cpu", action="store_true", help="measure processor time instead of elapsed time")
    add("--seed", type=natural, metavar="N", default=0, help="seed of vectors and batches (default 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    text = read(list(docstrings(args.packages)), args.min_count)
    if len(text.words) < MOST_COMMON:
        raise SystemExit(f"expected a text of {MOST_COMMON} different words, got {len(text.words)}; lower --min-count")
    print(f"{len(text.ids):,} words of text, {len(text.words):,} different ones")
    trained = train(text, args)
    print(report(trained, window_of(args)))
    same = all(
        np.array_equal(trained["Adagrad, dense"].vectors[name], trained["Adagrad, rows"].vectors[name])
        for name in ("words", "neighbors")
    )
    print(f"Adagrad's rows and dense steps have {'the same bits' if same else 'different bits'}")
    print(neighbors(text, trained["Adagrad, rows"].vectors["words"]))
    draw(text, trained, args)


if __name__ == "__main__":
    main()
