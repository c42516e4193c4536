"""The memory of one launch, which checks each access.

Main types: `Region`, a range of addresses; `Memory`, all regions in one array, with loads and stores of many threads at
once; `Accesses`, the record that races are found in.  An access must be aligned, inside one region and in its state
space, read only bytes that were written before, and write only where that is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .parser import PtxError

Array = npt.NDArray[Any]

# A variable's address in its state space is not its generic address, so that a missing conversion is detected.
PARAM_OFFSET, SHARED_OFFSET = 4096, 1024
PARAM_WINDOW, SHARED_WINDOW = 1 << 56, 1 << 57  # what is added to it
SHARED_STRIDE = 1 << 20  # between the blocks' shared memory
ALIGNMENT = 256  # of regions in `Memory`, relative to their address


class Fault(PtxError):  # noqa: N818  # the term of memory protection
    """An access, or a barrier, that is not allowed."""


@dataclass(eq=False)
class Region:
    """A range of addresses: its bytes, and which of them were written."""

    name: str
    address: int
    data: npt.NDArray[np.uint8]
    defined: npt.NDArray[np.bool_]
    writable: bool = True
    space: str = "global"


WARP = 32  # threads that can exchange registers


class Threads(NamedTuple):
    """Threads that execute an instruction together: number in the grid, block, and barriers that the block passed.

    `warp_epochs` counts the barriers of the warp.
    """

    lanes: Array
    blocks: Array
    epochs: Array
    warp_epochs: Array

    def some(self, which: Array) -> Threads:
        return Threads(*(each[which] for each in self))

    def are_whole_warps(self) -> bool:
        """Return whether all threads of each warp are among them; blocks consist of whole warps."""
        return bool(np.isin(np.bincount(self.lanes // WARP), (0, WARP)).all())


class Access(NamedTuple):
    """Some threads load or store so many bytes from each place on."""

    instruction: str
    places: Array
    size: int
    by: Threads
    stores: bool


class Accesses(list[Access]):
    """The accesses of a launch to memory that it may change.

    Two of them race if different threads make them, one of them is a store, and no barrier separates them; between
    blocks none does, and that of a warp only separates accesses of its own threads.  The order in which they were
    executed does not matter.
    """

    def find_race(self, size: int) -> tuple[Access, Access, int] | None:
        """Return two accesses that race, and the byte, in a memory of so many."""
        if not any(access.stores for access in self):
            return None
        unit = min(access.size for access in self)  # which all are aligned to
        stored, shared = np.zeros(size // unit, bool), np.zeros(size // unit, bool)
        owner = np.zeros(size // unit, np.int32)
        units = [self._units(access, unit) for access in self]
        for access, at in zip(self, units, strict=True):
            owner[at] = access.by.lanes[:, None]
            stored[at] |= access.stores
        for access, at in zip(self, units, strict=True):
            shared[at[owner[at] != access.by.lanes[:, None]]] = True  # more than the last thread accesses it
        shared &= stored
        if not shared.any():
            return None
        rows = []
        for i, (access, at) in enumerate(zip(self, units, strict=True)):
            thread, which = np.nonzero(shared[at])
            by = access.by.some(thread)
            columns = at[thread, which], by.blocks, by.epochs, by.lanes, by.warp_epochs, np.full(len(thread), i)
            rows.append(np.stack(columns).astype(np.int64))
        return self._first_race(np.concatenate(rows, axis=1), unit)

    def _first_race(self, rows: Array, unit: int) -> tuple[Access, Access, int] | None:
        rows = np.stack([*rows[:3], rows[3] // WARP, rows[4], rows[3], rows[5]])
        at, blocks, _, warps, _, lanes, which = rows = rows[:, np.lexsort(rows[::-1])]
        stores = np.array([access.stores for access in self])[which]
        changes = np.diff(rows, prepend=-1) != 0
        interval, warp_interval = (np.cumsum(changes[:keys].any(axis=0)) for keys in (3, 5))  # between two barriers
        for group, member in ((at, blocks), (interval, warps), (warp_interval, lanes)):
            begins = np.flatnonzero(np.diff(group, prepend=-1))
            differs = np.minimum.reduceat(member, begins) != np.maximum.reduceat(member, begins)
            races = np.flatnonzero(differs & np.logical_or.reduceat(stores, begins))
            if len(races):
                inside = np.flatnonzero(group == group[begins[races[0]]])
                one = inside[stores[inside]][0]
                other = inside[member[inside] != member[one]][0]
                return self[which[one]], self[which[other]], int(at[one]) * unit
        return None

    @staticmethod
    def _units(access: Access, unit: int) -> Array:
        return access.places[:, None] // unit + np.arange(access.size // unit)


class Memory:
    """The regions of a launch, the arguments and the blocks' shared memory."""

    def __init__(self, regions: Sequence[Region], threads: int) -> None:
        nothing = np.zeros(0, np.uint8)
        self._regions = sorted(
            [Region("nothing", 0, nothing, nothing.astype(bool)), *regions], key=lambda region: region.address
        )
        self._starts = np.array([region.address for region in self._regions], np.uint64)
        self._sizes = np.array([region.data.size for region in self._regions], np.uint64)
        self._spaces = np.array([region.space for region in self._regions])
        self._is_unsure = np.array([not region.defined.all() for region in self._regions])
        self._is_writable = np.array([region.writable for region in self._regions])
        places, end = [], 0
        for region in self._regions:
            places.append(end + (region.address - end) % ALIGNMENT)
            end = places[-1] + region.data.size
        self._places = np.array(places, np.uint64)
        self._bytes = np.zeros(-(-end // ALIGNMENT) * ALIGNMENT, np.uint8)
        self._defined = np.zeros(self._bytes.size, bool)
        for region, place in zip(self._regions, places, strict=True):
            self._bytes[place : place + region.data.size] = region.data
            self._defined[place : place + region.data.size] = region.defined
        self._last = np.zeros(self._bytes.size, np.int32)
        self._threads = threads
        self._accesses = Accesses()
        self.instruction = ""  # that is executed

    def finish(self) -> None:
        """Find races, and copy what was stored to the regions."""
        if race := self._accesses.find_race(self._bytes.size):
            one, other, place = race
            region = self._regions[int(np.searchsorted(self._places, place, side="right")) - 1]
            raise Fault(f"a race in {region.name}: {one.instruction} {other.instruction}")
        for region, place in zip(self._regions, self._places.astype(int), strict=True):
            if region.writable:
                region.data[:] = self._bytes[place : place + region.data.size]
                region.defined[:] = self._defined[place : place + region.data.size]

    def _locate(self, addresses: Array, size: int, space: str, by: Threads) -> tuple[Array, Array]:
        region = self._starts.searchsorted(addresses, side="right") - 1
        offset = addresses - self._starts[region]
        outside = offset + np.uint64(size) > self._sizes[region]
        misaligned = (addresses & np.uint64(size - 1)) != 0
        if (outside | misaligned).any():
            self._refuse(outside, by, addresses, f"{size} bytes outside of all arrays")
            self._refuse(misaligned, by, addresses, f"not aligned to {size} bytes")
        if space:
            self._refuse(self._spaces[region] != space, by, addresses, f"not in the {space} space")
        return region, (self._places[region] + offset).view(np.int64)

    def _refuse(self, wrong: Array, by: Threads, addresses: Array, why: str) -> None:
        if not wrong.any():
            return
        first = int(wrong.argmax())
        lane, address = int(by.lanes[first]), int(addresses[first])
        names = [
            f"{region.name}{address - region.address:+}"
            for region in self._regions
            if 0 <= address - region.address < region.data.size + 4096
        ]
        raise Fault(
            f"{self.instruction} thread {lane % self._threads} of block {lane // self._threads}, address {address:#x} "
            f"({names[-1] if names else 'no array is near'}): {why}"
        )

    def load(
        self, addresses: Array, dtype: np.dtype[Any], count: int, space: str, by: Threads, used: int | None
    ) -> list[Array]:
        """Return `count` neighbouring values for each address.  `used` is a mask of the bytes that are needed."""
        size = dtype.itemsize * count
        region, begin = self._locate(addresses, size, space, by)
        unsure, writable = self._is_unsure[region], self._is_writable[region]
        if unsure.any():
            needed = [i for i in range(size) if used is None or used >> i & 1]
            undefined = unsure & ~self._defined[begin[:, None] + needed].all(axis=1)
            self._refuse(undefined, by, addresses, "a load of bytes that nothing has written")
        if writable.all():
            self._accesses.append(Access(self.instruction, begin, size, by, False))
        elif writable.any():
            self._accesses.append(Access(self.instruction, begin[writable], size, by.some(writable), False))
        values, first = self._bytes.view(dtype), begin // dtype.itemsize
        return [values[first + i] for i in range(count)]

    def add(self, addresses: Array, terms: Array, by: Threads) -> None:
        """Add 64-bit integers atomically.  That no thread reads or stores the sums otherwise is not checked."""
        region, begin = self._locate(addresses, 8, "global", by)
        self._refuse(~self._is_writable[region], by, addresses, "a sum in what must not change")
        cells, which = np.unique(begin, return_inverse=True)
        at = cells[:, None] + np.arange(8)
        self._refuse(~self._defined[begin], by, addresses, "a sum with bytes that nothing has written")
        sums = self._bytes[at].view(np.uint64).ravel()
        np.add.at(sums, which.ravel(), np.broadcast_to(terms, begin.shape))
        self._bytes[at] = sums.view(np.uint8).reshape(-1, 8)

    def store(self, addresses: Array, values: Sequence[Array], space: str, by: Threads) -> None:
        """Store neighbouring values at each address.  What another thread may not see changed is not a store."""
        new = np.empty((len(addresses), len(values)), values[0].dtype)
        for i, each in enumerate(values):
            new[:, i] = each
        size = new.itemsize * len(values)
        region, begin = self._locate(addresses, size, space, by)
        self._refuse(~self._is_writable[region], by, addresses, "a store to what must not change")
        at, new = begin[:, None] + np.arange(size), new.view(np.uint8)
        changes = (self._bytes[at] != new).any(axis=1)
        self._bytes[at] = new
        self._defined[at] = True
        differs = (self._bytes[at] != new).any(axis=1)
        self._refuse(differs, by, addresses, "a race: other threads store other values at the same time")
        order = np.arange(len(begin), dtype=np.int32)
        self._last[begin] = order
        changes &= self._last[begin] == order  # one of those that store the same
        self._accesses.append(Access(self.instruction, begin[changes], size, by.some(changes), True))
