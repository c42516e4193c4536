"""Every optimizer learns: the digits of examples/digits.py at the setting it has there.  Some ten seconds in all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from types import ModuleType

import pytest

import fastoptim as fo
from cases import CHECKOUT
from optional import optional

EXAMPLES = CHECKOUT / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs examples/: these tests run in a checkout")


@pytest.fixture(scope="module")
def digits() -> Iterator[ModuleType]:
    for library in ("sklearn", "matplotlib", "tqdm"):
        optional(library)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        before = set(sys.modules)
        import digits as example

        yield example
        for name in {"digits", "common"} - before:
            del sys.modules[name]


@pytest.mark.parametrize("name", fo.OPTIMIZERS)
def test_every_optimizer_learns_the_digits_at_its_setting(name: str, digits: ModuleType) -> None:
    data = digits.load()
    run = digits.Run(name, digits.setting_of(name, 1.0))
    accuracies = []
    for layers in islice(digits.training(run, data, batch_size=32, seed=0), 41):
        accuracies.append(digits.evaluate(layers, data.test_x, data.test_y)[1])
        if accuracies[-1] >= 0.93:
            return
    pytest.fail(f"{max(accuracies):.3f} is the best of {len(accuracies) - 1} epochs")
