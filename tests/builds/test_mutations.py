"""Check the table of mutations: every pattern still occurs once, and every test file exists."""

from __future__ import annotations

import re

import pytest

from cases import CHECKOUT
from mutations import MUTATIONS

pytestmark = pytest.mark.skipif(not (CHECKOUT / "csrc").exists(), reason="needs the sources: run it in a checkout")


def test_every_pattern_applies_once() -> None:
    wrong = []
    for mutation in MUTATIONS:
        try:
            assert mutation.applied(CHECKOUT) != (CHECKOUT / mutation.file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            wrong.append(str(error))
    assert wrong == []


def test_every_test_file_exists_and_names_are_unique() -> None:
    files = {name for mutation in MUTATIONS for name in mutation.tests.split()}
    assert [name for name in sorted(files) if not (CHECKOUT / name).exists()] == []
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_every_catcher_names_a_test() -> None:
    wrong = []
    for mutation in MUTATIONS:
        text = "".join((CHECKOUT / name).read_text(encoding="utf-8") for name in mutation.tests.split())
        names = re.findall(r"def (test_\w+)", text)
        if not any(re.search(mutation.catcher, name) for name in names):
            wrong.append(f"{mutation.name}: {mutation.catcher}")
    assert wrong == []
