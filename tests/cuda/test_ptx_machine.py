"""The interpreter of PTX detects what it claims to: faults in small kernels, and mutations of real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptx.machine import Grid, Program
from ptx.memory import Fault, Region
from ptx.operations import OPERATIONS, TYPES
from ptx.parser import Kernel, PtxError, parse

ADDRESS, ELEMENTS, THREADS = 1 << 20, 64, 32

MODULE = """
.visible .entry _ZN2fo3gpu6kernelINS0_3PutEEEvNS0_9ArgumentsE(
	.param .align 16 .b8 given[16]
)
.maxntid 32, 1, 1
.minnctapersm 1
{{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .f32 	%f<9>;
	.reg .b32 	%r<9>;
	.reg .f64 	%fd<9>;
	.reg .b64 	%rd<9>;
	.shared .align 8 .b8 shared[256];

	ld.param.u64 	%rd1, [given];
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd2, %r1, 4;
	add.s64 	%rd3, %rd1, %rd2;
	shl.b32 	%r2, %r1, 3;
	mov.u32 	%r3, shared;
	add.s32 	%r4, %r3, %r2;
{code}
	ret;

}}
"""


def kernel_of(code: str, threads: int = THREADS) -> Kernel:
    """Return a kernel in which %rd3 is the address of the thread's element, %r4 that of its shared memory."""
    module = MODULE.format(code="\n".join(f"\t{line.strip()}" for line in code.strip().split("\n")))
    return parse(module.replace("maxntid 32", f"maxntid {threads}"))["Put"]


def run(code: str, *, blocks: int = 1, writable: bool = True, threads: int = THREADS) -> Any:
    """Run it over 0, 1, ..., 63 in uint32, of which the last is undefined, and return what becomes of them."""
    values = np.arange(ELEMENTS, dtype=np.uint32)
    region = Region("array", ADDRESS, values.view(np.uint8), np.arange(4 * ELEMENTS) < 4 * ELEMENTS - 4, writable)
    arguments = np.array([ADDRESS, 0], np.uint64).tobytes()
    Grid(Program(kernel_of(code, threads)), blocks, arguments, [region]).run()
    return values


def test_threads_take_different_paths_and_meet_again() -> None:
    values = run(
        """
        mov.u32 %r5, 0;
        mov.u32 %r6, 0;
        $L__LOOP:
        setp.ge.u32 %p1, %r6, %r1;
        @%p1 bra $L__END;
        add.s32 %r5, %r5, %r6;
        add.s32 %r6, %r6, 1;
        bra.uni $L__LOOP;
        $L__END:
        st.global.u32 [%rd3], %r5;
        """
    )
    assert values[:THREADS].tolist() == [sum(range(i)) for i in range(THREADS)]
    assert values[THREADS:].tolist() == list(range(THREADS, ELEMENTS))


def test_shared_memory_and_a_barrier() -> None:
    values = run(
        """
        cvt.u64.u32 %rd4, %r1;
        st.shared.u64 [%r4], %rd4;
        bar.sync 0;
        sub.s32 %r5, 31, %r1;
        shl.b32 %r6, %r5, 3;
        add.s32 %r7, %r3, %r6;
        ld.shared.u64 %rd5, [%r7];
        st.global.u32 [%rd3], %rd5;
        """
    )
    assert values[:THREADS].tolist() == list(range(THREADS))[::-1]


def test_threads_of_a_warp_exchange_registers() -> None:
    code = "shfl.sync.bfly.b32 %r5|%p1, %r1, 17, 31, -1;\nst.global.u32 [%rd3], %r5;"
    assert run(code)[:THREADS].tolist() == [i ^ 17 for i in range(THREADS)]


def test_a_barrier_of_a_warp_orders_its_threads_alone() -> None:
    code = "ld.global.u32 %r5, [%rd1+128];\nbar.warp.sync -1;\nadd.s32 %r6, %r5, 99;\nst.global.u32 [%rd3], %r6;"
    own = code.replace("+128", "+64")  # an element of a thread of the first warp
    assert run(own)[:THREADS].tolist() == [115] * THREADS
    with pytest.raises(Fault, match="a race in array"):
        run(own.replace("bar.warp.sync -1;", ""))
    for arguments in ({"threads": 2 * THREADS}, {"blocks": 2}):
        with pytest.raises(Fault, match="a race in array"):
            run(code if "threads" in arguments else own, **arguments)  # type: ignore[arg-type]


FAULTS = {
    "an exchange without all threads of a warp": "setp.eq.s32 %p1, %r1, 3;\n@%p1 bra $L__END;\n"
    "shfl.sync.bfly.b32 %r5|%p2, %r1, 16, 31, -1;\n$L__END:",
    "the threads of a warp diverge": "setp.eq.s32 %p1, %r1, 3;\n@%p1 bra $L__END;\nbar.warp.sync -1;\n$L__END:",
    "outside of all arrays": "ld.global.u32 %r5, [%rd3+132];",
    "not aligned to 8 bytes": "ld.global.v2.u32 {%r5, %r6}, [%rd3];",
    "not in the global space": "ld.param.u64 %rd4, [given];\ncvta.param.u64 %rd5, given;\nld.global.u64 %rd6, [%rd5];",
    "4 bytes outside of all arrays": "mov.b64 %rd4, given;\nld.u32 %r5, [%rd4];",  # no cvta.param
    "a load of bytes that nothing has written": "ld.global.u32 %r5, [%rd3+128];",
    "bytes that nothing has written": "ld.shared.f64 %fd1, [%r4];",
    "other threads store other values": "st.global.u32 [%rd1], %r1;",
    "a race in array": "ld.global.u32 %r5, [%rd3+4];\nst.global.u32 [%rd3], %r5;",
    "a race in shared memory of block 0": "cvt.u64.u32 %rd4, %r1;\nst.shared.u64 [%r4], %rd4;\n"
    "ld.shared.u64 %rd5, [shared+8];",
    "diverge at a barrier": "setp.eq.s32 %p1, %r1, 3;\n@%p1 bra $L__END;\nbar.sync 0;\n$L__END:",
    "does not end": "$L__LOOP:\nbra $L__LOOP;",
}


@pytest.mark.parametrize(("message", "code"), FAULTS.items(), ids=FAULTS)
def test_faults_are_detected(message: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptx.machine.PATIENCE", 1000)
    with pytest.raises(Fault, match=f"^Put: .*{message}"):
        run(code)


def test_a_store_to_a_gradient_is_detected() -> None:
    with pytest.raises(Fault, match="a store to what must not change"):
        run("st.global.u32 [%rd3], %r1;", writable=False)


def test_stores_of_the_same_value_do_not_race() -> None:
    assert run("st.global.u32 [%rd1], 7;", blocks=2)[0] == 7


def test_a_barrier_does_not_order_blocks() -> None:
    code = "st.global.u32 [%rd3], 77;\nbar.sync 0;\nld.global.u32 %r6, [%rd3];"
    assert run(code)[:THREADS].tolist() == [77] * THREADS
    with pytest.raises(Fault, match="a race in array"):
        run(code, blocks=2)


@pytest.mark.parametrize("opcode", ["fma.rn.f32", "add.rz.f32", "add.f32", "sqrt.approx.f32", "div.full.f32"])
def test_an_unknown_opcode_is_named(opcode: str) -> None:
    with pytest.raises(PtxError, match=f"unknown opcode {opcode}"):
        Program(kernel_of(f"{opcode} %f1, %f2, %f3;"))


def test_unknown_syntax_is_quoted() -> None:
    with pytest.raises(PtxError, match=r"unknown syntax: call \(retval0\)"):
        kernel_of("call (retval0), f, (param0)")


ONE, TWO63 = 1.0, 2.0**63
RESULTS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("cvt.rzi.s64.f64", (-1.9,), -1),
    ("cvt.rzi.s64.f64", (np.inf,), 2**63 - 1),
    ("cvt.rzi.s64.f64", (np.nan,), -(2**63)),
    ("cvt.rn.f32.f64", (1 + 2.0**-24,), 1.0),
    ("cvt.s64.s32", (-5,), -5),
    ("shl.b32", (1, 32), 0),
    ("shl.b32", (1, 2**31), 0),
    ("shr.s32", (-8, 1), -4),
    ("shr.s32", (-8, 99), -1),
    ("shr.u32", (2**31, 31), 1),
    ("mul.wide.u32", (2**32 - 1, 2), 2**33 - 2),
    ("mul.lo.s32", (2**30, 4), 0),
    ("div.s64", (-7, 2), -3),
    ("div.s64", (2**62 + 1, -1), -(2**62) - 1),
    ("div.u32", (2**32 - 1, 2), 2**31 - 1),
    ("prmt.b32", (0x3322_1100, 0x7766_5504, 0x1054), 0x1100_5504),
    ("prmt.b32", (0x0000_8000, 0, 0x0009), 0x0000_00FF),
    ("bfi.b64", (0xFFFF_FFFF, 5, 32, 32), 0xFFFF_FFFF_0000_0005),
    ("bfi.b32", (0x1_FF, 0xFFFF_0000, 8, 8), 0xFFFF_FF00),
    ("shf.l.wrap.b32", (0x8000_0001, 0x8000_0001, 33), 0x0000_0003),
    ("abs.s32", (-7,), 7),
    ("mul.wide.u16", (2**16 - 1, 2), 2**17 - 2),
    ("cvt.rzi.s32.f32", (-2.75,), -2),
    ("cvt.rzi.s32.f32", (3e9,), 2**31 - 1),
    ("cvt.rzi.s32.f32", (np.nan,), 0),
    ("cvt.rn.f32.s32", (2**24 + 1,), 2.0**24),
    ("cvt.s32.s8", (-5,), -5),
    ("max.f64", (np.nan, 1e-3), 1e-3),
    ("min.f32", (2.0, 1.0), 1.0),
    ("copysign.f32", (-0.0, 3.0), -3.0),
    ("setp.ne.f32", (np.nan, 1.0), False),
    ("setp.neu.f32", (np.nan, 1.0), True),
    ("setp.equ.f64", (np.nan, 1.0), True),
    ("setp.leu.f64", (2.0, 1.0), False),
    ("setp.nan.f32", (1.0, 1.0), False),
    ("selp.f32", (1.0, 2.0, False), 2.0),
]


@pytest.mark.parametrize(("opcode", "sources", "result"), RESULTS, ids=str)
def test_operations_are_those_of_the_manual(opcode: str, sources: tuple[Any, ...], result: Any) -> None:
    operation = OPERATIONS[opcode]
    arrays = [np.array([x], TYPES[kind]) for x, kind in zip(sources, operation.sources, strict=True)]
    with np.errstate(all="ignore"):
        found = operation.function(*arrays)
    assert found.tolist() == [result]
    assert found.dtype == TYPES[operation.result]
