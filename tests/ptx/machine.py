"""Run a PTX kernel: all threads of a grid at once, each register an array with an element for each thread.

The threads at the lowest basic block execute it together (lowest-pc reconvergence).  A thread waits at a barrier until
all threads of its block have arrived at the same one.  `Program` is a kernel whose instructions are bound to NumPy
functions, `Frame` the registers of the threads that execute a block, `Grid` a launch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from .memory import (
    PARAM_OFFSET,
    PARAM_WINDOW,
    SHARED_OFFSET,
    SHARED_STRIDE,
    SHARED_WINDOW,
    WARP,
    Array,
    Fault,
    Memory,
    Region,
    Threads,
)
from .operations import OPERATIONS, TYPES, Operation
from .parser import ENDS, Instruction, Kernel, PtxError

PATIENCE = 1_000_000  # basic blocks until a launch counts as endless

_ACCESS = re.compile(r"(ld|st)(?:\.(global|shared|param))?(?:\.v([24]))?\.([bfsu]\d+)")
_ADDRESS = re.compile(r"\[(%?\w+)(?:\+(-?\d+))?\]")
_REGISTER = re.compile(r"%(?:p|rs|rd|r|fd|f)\d+")
_SPECIAL = ("%tid.x", "%ctaid.x", "%nctaid.x")
ATOMIC_ADD = "atom.global.add.u64"
SHUFFLE, WARP_BARRIER = "shfl.sync.bfly.b32", "bar.warp.sync"  # of whole warps
_GENERIC = {"cvta.param.u64": PARAM_WINDOW, "cvta.to.global.u64": 0}


class Frame(dict[str, Array]):
    """The registers of threads that execute together, which are read from the grid at their first use."""

    def __init__(self, grid: Grid, by: Threads) -> None:
        self.grid, self.by = grid, by
        self.changed: set[str] = set()  # registers to copy to the grid before other frames use these threads

    def __missing__(self, register: str) -> Array:
        if register not in self.grid.registers:
            raise PtxError(f"{register} is read before any thread writes it")
        values: Array = self.grid.registers[register][self.by.lanes]
        self[register] = values
        return values

    def flush(self) -> None:
        for name in self.changed:
            if name not in self.grid.registers:
                self.grid.registers[name] = np.zeros(self.grid.blocks * self.grid.threads, self[name].dtype)
            self.grid.registers[name][self.by.lanes] = self[name]

    def divide(self, where: Array) -> Iterator[Frame]:
        """Return frames of the threads where the condition holds, and where not."""
        self.flush()
        return (Frame(self.grid, self.by.some(each)) for each in (where, ~where))

    def special(self, name: str) -> Array:
        lanes, blocks = self.by.lanes, self.by.blocks
        values = {"%tid.x": lanes - blocks * self.grid.threads, "%ctaid.x": blocks}
        return np.asarray(values.get(name, np.full(len(lanes), self.grid.blocks)), np.uint32)


Fetch = Callable[[Frame], Array]
Action = Callable[[Frame], None]


class Bound(NamedTuple):
    """A basic block: its instructions but the one that ends it, that one, and the registers that others read."""

    actions: Sequence[tuple[Action, Instruction]]
    end: Instruction | None
    kept: set[str]


class Program:
    """A kernel that can be launched; `executed` contains the basic blocks that were."""

    def __init__(self, kernel: Kernel, operations: Mapping[str, Operation] = OPERATIONS) -> None:
        self.kernel, self._operations = kernel, operations
        self._bound: dict[int, Bound] = {}
        self.executed: set[int] = set()
        exposed: set[str] = set()
        for block in kernel.blocks:
            written: set[str] = set()
            for instruction in block.code:
                self._check(instruction)
                writes, reads = _registers(instruction)
                exposed |= reads - written
                written |= writes
        self._exposed = exposed

    def _check(self, instruction: Instruction) -> None:
        opcode, is_branch = instruction.opcode, instruction.opcode in ("bra", "bra.uni")
        known = opcode in self._operations or opcode in _GENERIC or _ACCESS.fullmatch(opcode) is not None
        known |= (
            opcode.startswith("mov.") or opcode in (ATOMIC_ADD, SHUFFLE, WARP_BARRIER, "bar.sync", "ret") or is_branch
        )
        if not known:
            raise PtxError(f"{self.kernel.name}: unknown opcode {opcode}: {instruction.text}")
        if instruction.guard and not is_branch:
            raise PtxError(f"{self.kernel.name}: unknown predicate: {instruction.text}")

    def block(self, index: int) -> Bound:
        """Return a basic block, bound at its first use."""
        if index not in self._bound:
            code = self.kernel.blocks[index].code
            end = code[-1] if code and code[-1].opcode.split(".")[0] in ENDS else None
            actions = [(self._bind(each), each) for each in (code[:-1] if end else code)]
            writes = set[str]().union(*(_registers(each)[0] for each in code))
            self._bound[index] = Bound(actions, end, writes & self._exposed)
        return self._bound[index]

    # ---- instructions

    def _bind(self, instruction: Instruction) -> Action:
        opcode, (to, *of) = instruction.opcode, instruction.operands
        if opcode in self._operations:
            operation = self._operations[opcode]
            fetches = [self._fetch(each, kind) for each, kind in zip(of, operation.sources, strict=True)]
            return self._compute(to, operation, fetches)
        if found := _ACCESS.fullmatch(opcode):
            dtype, count, space = TYPES[found[4]], int(found[3] or 1), found[2] or ""
            if found[1] == "ld":
                return self._load(instruction, dtype, count, space, found[4])
            return self._store(instruction, count, space, found[4])
        if opcode == ATOMIC_ADD:
            return self._add_atomically(instruction)
        if opcode == SHUFFLE:
            return self._exchange(instruction)
        if opcode in _GENERIC:
            fetch, put, base = self._fetch(of[0], "u64"), self._put(to, "u64"), np.uint64(_GENERIC[opcode])
            return lambda frame: put(frame, np.broadcast_to(fetch(frame) + base, frame.by.lanes.shape))
        return self._move(to, of[0], opcode.removeprefix("mov."))

    def _compute(self, to: str, operation: Operation, fetches: Sequence[Fetch]) -> Action:
        function, put = operation.function, self._put(to, operation.result)
        if len(fetches) == 1:
            (only,) = fetches
            return lambda frame: put(frame, function(only(frame)))
        if len(fetches) == 2:
            first, second = fetches
            return lambda frame: put(frame, function(first(frame), second(frame)))
        return lambda frame: put(frame, function(*(fetch(frame) for fetch in fetches)))

    def _fetch(self, operand: str, kind: str) -> Fetch:
        wanted = TYPES[kind]
        if not operand.startswith("%"):
            value = self._literal(operand, kind)
            return lambda frame: value
        stored = TYPES[self.kernel.type_of(operand)]
        if stored == wanted:
            return itemgetter(operand)
        if stored.itemsize == wanted.itemsize:
            return lambda frame: frame[operand].view(wanted)
        if stored.itemsize > wanted.itemsize and stored.kind == "u":  # the low bits
            narrow = np.dtype(f"u{wanted.itemsize}")
            return lambda frame: frame[operand].astype(narrow).view(wanted)
        raise PtxError(f"expected a register of type {kind}, got {operand}")

    def _literal(self, text: str, kind: str) -> Any:
        dtype = TYPES[kind]
        if text in self.kernel.shared:
            text = str(self.shared_at(text))
        elif text == self.kernel.param[0]:
            text = str(PARAM_OFFSET)
        if kind == "pred":
            return np.bool_(int(text))
        if text[:2] in ("0f", "0d"):
            return np.array(int(text[2:], 16), f"u{dtype.itemsize}").view(dtype)[()]
        return np.array(int(text, 0) % 2 ** (8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)[()]

    def shared_at(self, name: str) -> int:
        """Return the address of a variable in the shared space."""
        at = SHARED_OFFSET
        for each, (alignment, size) in self.kernel.shared.items():
            at += -at % alignment
            if each == name:
                return at
            at += size
        raise KeyError(name)

    def _put(self, register: str, kind: str) -> Callable[[Frame, Array], None]:
        made, stored = TYPES[kind], TYPES[self.kernel.type_of(register)]
        if made == stored:
            return lambda frame, values: frame.__setitem__(register, values)
        if made.itemsize == stored.itemsize:
            return lambda frame, values: frame.__setitem__(register, values.view(stored))
        if made.itemsize < stored.itemsize and stored.kind == "u" and made.kind in "iu":  # extended by its sign
            wide = np.dtype(f"{made.kind}{stored.itemsize}")
            return lambda frame, values: frame.__setitem__(register, values.astype(wide).view(stored))
        raise PtxError(f"expected a register of type {kind}, got {register}")

    def _move(self, to: str, of: str, kind: str) -> Action:
        if of in _SPECIAL:
            put = self._put(to, "u32")
            return lambda frame: put(frame, frame.special(of))
        if to.startswith("{") or of.startswith("{"):
            return self._repack(to, of, TYPES[kind])
        fetch, put, dtype = self._fetch(of, kind), self._put(to, kind), TYPES[kind]
        if of.startswith("%"):
            return lambda frame: put(frame, fetch(frame))
        return lambda frame: put(frame, np.full(len(frame.by.lanes), fetch(frame), dtype))

    def _repack(self, to: str, of: str, whole: np.dtype[Any]) -> Action:
        """Divide a register into two, or join two: the first has the low bits."""
        half = f"b{whole.itemsize * 4}"
        if to.startswith("{"):
            fetch = self._fetch(of, f"b{whole.itemsize * 8}")
            puts = [self._put(each, half) if each != "_" else None for each in _names(to)]

            def divide(frame: Frame) -> None:
                halves = fetch(frame).view(TYPES[half]).reshape(-1, 2)
                for i, put in enumerate(puts):
                    if put:
                        put(frame, halves[:, i].copy())

            return divide
        fetches = [self._fetch(each, half) for each in _names(of)]
        put = self._put(to, f"b{whole.itemsize * 8}")
        bits, dtype = np.uint64(whole.itemsize * 4), np.dtype(f"u{whole.itemsize}")

        def join(frame: Frame) -> None:
            low, high = (fetch(frame).astype(np.uint64) for fetch in fetches)
            put(frame, (low | high << bits).astype(dtype))

        return join

    # ---- memory

    def _address(self, operand: str, space: str) -> Fetch:
        found = _ADDRESS.fullmatch(operand)
        if not found:
            raise PtxError(f"unknown address {operand}")
        fetch = self._fetch(found[1], "u32" if space == "shared" else "u64")
        offset = np.uint64(int(found[2] or 0) % 2**64)
        window = {"param": PARAM_WINDOW, "shared": SHARED_WINDOW}.get(space, 0)
        base = np.uint64((window + int(offset)) % 2**64)

        if space == "shared":
            stride = np.uint64(SHARED_STRIDE)
            return lambda frame: frame.by.blocks.astype(np.uint64) * stride + np.asarray(fetch(frame), np.uint64) + base
        if found[1].startswith("%"):
            return lambda frame: fetch(frame) + base
        return lambda frame: np.full(len(frame.by.lanes), fetch(frame) + base)

    def _load(self, instruction: Instruction, dtype: np.dtype[Any], count: int, space: str, kind: str) -> Action:
        to, of = instruction.operands
        address, puts = self._address(of, space), [self._put(each, kind) for each in _names(to)]
        used = instruction.used_bytes

        def load(frame: Frame) -> None:
            values = frame.grid.memory.load(address(frame), dtype, count, space, frame.by, used)
            for put, each in zip(puts, values, strict=True):
                put(frame, each)

        return load

    def _store(self, instruction: Instruction, count: int, space: str, kind: str) -> Action:
        to, of = instruction.operands
        address, fetches = self._address(to, space), [self._fetch(each, kind) for each in _names(of)]
        if len(fetches) != count:
            raise PtxError(f"expected {count} values: {instruction.text}")

        def store(frame: Frame) -> None:
            frame.grid.memory.store(address(frame), [fetch(frame) for fetch in fetches], space, frame.by)

        return store

    def _exchange(self, instruction: Instruction) -> Action:
        """Read the register of the thread whose number in the warp differs in these bits."""
        to, of, *constants = instruction.operands
        fetch, put = self._fetch(of, "b32"), self._put(to.partition("|")[0], "b32")
        fetch_bits, fetch_clamp, fetch_members = (self._fetch(each, "u32") for each in constants)

        def exchange(frame: Frame) -> None:
            clamp, members = (np.unique(each(frame)).tolist() for each in (fetch_clamp, fetch_members))
            if not frame.by.are_whole_warps() or members != [2**32 - 1] or clamp != [WARP - 1]:
                raise Fault(f"{instruction.text} an exchange without all threads of a warp")
            lanes = frame.by.lanes
            place = np.zeros(lanes.max() + 1, np.int64)
            place[lanes] = np.arange(len(lanes))
            values = np.broadcast_to(fetch(frame), lanes.shape)
            put(frame, values[place[lanes ^ np.broadcast_to(fetch_bits(frame), lanes.shape).astype(lanes.dtype)]])

        return exchange

    def _add_atomically(self, instruction: Instruction) -> Action:
        """Add to memory.  The sum before is in no register: reading it is an error."""
        _, to, of = instruction.operands
        address, fetch = self._address(to, "global"), self._fetch(of, "u64")
        return lambda frame: frame.grid.memory.add(address(frame), fetch(frame), frame.by)


def _names(operand: str) -> list[str]:
    return [each.strip() for each in operand.strip("{}").split(",")]


def _registers(instruction: Instruction) -> tuple[set[str], set[str]]:
    """Return the registers that an instruction writes and reads."""
    operands = instruction.operands
    writes = operands[:1] if instruction.opcode.split(".")[0] not in ("st", *ENDS) else ()
    reads = (*operands[len(writes) :], instruction.guard)
    written, read = (set(_REGISTER.findall(" ".join(each))) for each in (writes, reads))
    return written, read


class Grid:
    """One launch of a program."""

    def __init__(self, program: Program, blocks: int, arguments: bytes, regions: Sequence[Region]) -> None:
        self.program, self.blocks, self.threads = program, blocks, program.kernel.threads
        kernel = program.kernel
        if len(arguments) != kernel.param[1]:
            raise PtxError(f"{kernel.name}: expected {kernel.param[1]} bytes of arguments, got {len(arguments)}")
        given = np.frombuffer(arguments, np.uint8)
        own = [Region("arguments", PARAM_WINDOW + PARAM_OFFSET, given, np.ones(given.size, bool), False, "param")]
        size = max(
            (program.shared_at(each) - SHARED_OFFSET + size for each, (_, size) in kernel.shared.items()), default=0
        )
        if size:
            for block in range(blocks):
                address = SHARED_WINDOW + block * SHARED_STRIDE + SHARED_OFFSET
                data, defined = np.zeros(size, np.uint8), np.zeros(size, bool)
                own.append(Region(f"shared memory of block {block}", address, data, defined, space="shared"))
        self.memory = Memory([*regions, *own], self.threads)
        self.registers: dict[str, Array] = {}
        lanes = np.arange(blocks * self.threads)
        none = np.zeros_like(lanes)
        every = Frame(self, Threads(lanes, lanes // self.threads, none, none))
        self._ready = {0: [every]}  # by the next basic block
        self._waiting: dict[int, list[Frame]] = {}

    def run(self) -> None:
        """Run all threads to their end, and copy what they stored to the regions."""
        try:
            with np.errstate(all="ignore"):
                self._run()
            self.memory.finish()
        except PtxError as error:
            raise type(error)(f"{self.program.kernel.name}: {error}") from None

    def _run(self) -> None:
        for _ in range(PATIENCE):
            if self._ready:
                now = min(self._ready)
                self._execute(now, self._join(self._ready.pop(now)))
            elif self._waiting:
                self._pass_barriers()
            else:
                return
        raise Fault("does not end")

    def _join(self, frames: list[Frame]) -> Frame:
        if len(frames) == 1:
            return frames[0]
        for frame in frames:
            frame.flush()
        return Frame(self, Threads(*map(np.concatenate, zip(*(frame.by for frame in frames), strict=True))))

    def _execute(self, now: int, frame: Frame) -> None:
        block = self.program.block(now)
        self.program.executed.add(now)
        for action, instruction in block.actions:
            self.memory.instruction = instruction.text
            action(frame)
        frame.changed |= block.kept
        end = block.end
        if end is None:
            self._ready.setdefault(now + 1, []).append(frame)
        elif end.opcode == "bar.sync":
            self._waiting.setdefault(now + 1, []).append(frame)
        elif end.opcode == WARP_BARRIER:
            if not frame.by.are_whole_warps():
                raise Fault("the threads of a warp diverge at its barrier")
            frame.by = frame.by._replace(warp_epochs=frame.by.warp_epochs + 1)
            self._ready.setdefault(now + 1, []).append(frame)
        elif end.opcode != "ret":
            self._branch(now, end, frame)

    def _branch(self, now: int, end: Instruction, frame: Frame) -> None:
        target = self.program.kernel.labels[end.operands[0]]
        taken = frame[end.guard.lstrip("!")] != end.guard.startswith("!") if end.guard else np.ones(1, bool)
        if taken.all() or not taken.any():
            self._ready.setdefault(target if taken[0] else now + 1, []).append(frame)
            return
        for to, part in zip((target, now + 1), frame.divide(taken), strict=True):
            self._ready.setdefault(to, []).append(part)

    def _pass_barriers(self) -> None:
        """No thread can go on: all threads of each block that waits must have arrived at the same barrier."""
        for resume, frames in self._waiting.items():
            frame = self._join(frames)
            arrived = np.bincount(frame.by.blocks)
            if not np.isin(arrived, (0, self.threads)).all():
                raise Fault("the threads of a block diverge at a barrier")
            frame.by = frame.by._replace(epochs=frame.by.epochs + 1)
            self._ready[resume] = [frame]
        self._waiting.clear()
