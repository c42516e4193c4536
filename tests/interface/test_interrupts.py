"""Exceptions of signal handlers, such as KeyboardInterrupt, at any moment: all is done and counted, or nothing."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from all_or_nothing import KINDS, step, trained
from models import rate

PACKAGE = str(Path(fo.__file__).parent)


class Interrupt(KeyboardInterrupt):
    """The exception that the handler raises."""


def run_interrupted(work: Callable[[], Any], at: int) -> int:
    """Raise Interrupt before the instruction of that number in fastoptim's Python code; return how many were begun.

    Python runs signal handlers before some of its instructions.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == at:
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except Interrupt:
        pass
    finally:
        sys.settrace(None)
    return count


each_kind = pytest.mark.parametrize("kind", KINDS)


def check_interrupts(kind: str, most: int) -> None:
    """Interrupt the call before up to so many of its instructions, those at its end among them."""
    work, options = KINDS[kind]
    taken = trained(**options)
    before = taken.seen()
    total = run_interrupted(partial(work, taken), 0)
    after = taken.seen()
    moments = sorted(
        {*range(max(1, total - most // 2), total + 1), *random.Random(kind).choices(range(1, total), k=most)}
    )
    for at in moments if len(moments) < total else range(1, total + 1):
        case = trained(**options)
        run_interrupted(partial(work, case), at)
        assert case.seen() in (before, after), f"instruction {at} of {total}"
        if kind != "eval":  # and it continues
            wanted = case.seen() == after
            step(case)
            assert case.opt.step_count == 1 + (after if wanted else before)[2][0]


@each_kind
def test_an_interrupt_leaves_all_or_nothing_done(kind: str) -> None:
    check_interrupts(kind, 40)


@pytest.mark.exhaustive
@each_kind
def test_many_interrupts_leave_all_or_nothing_done(kind: str) -> None:
    check_interrupts(kind, 400)


@pytest.mark.parametrize("size", [10, 1 << 20])
@pytest.mark.parametrize("lr", [0.5, rate])
def test_a_signal_in_a_step(size: int, lr: Any) -> None:
    """Every step adds one to the running mean of a gradient of ones divided by itself: the state says what was done."""
    p = np.zeros(size)
    opt = fo.SGD(p, lr=lr, momentum=1.0)
    done = threading.Event()

    def raise_signals() -> None:
        while not done.wait(random.random() * 2e-3):
            os.kill(os.getpid(), signal.SIGUSR1)

    armed: list[bool] = []  # for one exception

    def handler(*_: Any) -> None:
        if armed:
            armed.clear()
            raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=raise_signals)
    interrupts = 0
    g = np.ones(size)
    try:
        thread.start()
        while interrupts < 60:
            try:
                armed.append(True)
                while True:
                    opt.step(g)
            except Interrupt:
                interrupts += 1
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert (opt.state["b"] == opt.step_count).all()
