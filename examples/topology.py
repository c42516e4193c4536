"""Find the stiffest beam of a given volume: topology optimization with densities that `bounds` keeps in (0, 1).

Each square element of half an MBB beam has a density between 0 (void) and 1 (solid), and Young's modulus
E = 1e-9 + density**3 (SIMP).  The loss is the logarithm of the compliance, which is the work of the load, with
an augmented Lagrangian for the volume (Andreassen et al., "Efficient topology optimization in MATLAB using 88 lines
of code", 2011, doi:10.1007/s00158-010-0594-7; steps of Adam take the place of its optimality criteria).  A second
optimizer clips its densities after each step, and has the same bits; the time of both is measured with larger arrays,
too.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from common import INK, Array, look, loss_axes, make_parser, number, panels, positive, save, table
from scipy.ndimage import convolve
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from tqdm import tqdm  # type: ignore[import-untyped]

import fastoptim as fo

# ---- the beam


class Beam:
    """The right half of a beam on two supports, with a load in the middle of its upper side.

    The mesh has `height` x `width` elements of four nodes; node (row, column) has the degrees of freedom
    2 * (column * (height + 1) + row) to the right, and the next one upwards.
    """

    def __init__(self, width: int, height: int, radius: float) -> None:
        self.shape = height, width
        column, row = np.divmod(np.arange(width * height), height)
        upper_left = 2 * (column * (height + 1) + row)
        below, right = 2, 2 * (height + 1)
        corners = np.array([below, below + 1, below + right, below + right + 1, right, right + 1, 0, 1])
        self.freedoms = upper_left[:, None] + corners
        self.count = 2 * (width + 1) * (height + 1)
        fixed = [*range(0, 2 * (height + 1), 2), self.count - 1]  # the plane of symmetry, and the support at the right
        self.free = np.setdiff1d(np.arange(self.count), fixed)
        self.load = np.zeros(self.count)
        self.load[1] = -1
        distance = np.hypot(*np.mgrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1])
        self.kernel = np.maximum(0, radius - distance)
        self.weight = convolve(np.ones(self.shape), self.kernel, mode="constant")

    def filtered(self, densities: Array) -> Array:
        """Return the means over neighbors, which prevent checkerboards."""
        means: Array = convolve(densities, self.kernel, mode="constant") / self.weight
        return means

    def filtered_gradient(self, gradient: Array) -> Array:
        """Return the gradient by the densities from that by the filtered ones: the filter's transpose."""
        by_density: Array = convolve(gradient / self.weight, self.kernel, mode="constant")
        return by_density

    def compliance(self, densities: Array) -> tuple[float, Array]:
        """Return the compliance u^T K u, and its gradient, for filtered densities.

        The state K u = f is its own adjoint, so that the derivative is -dE / d density * u_e^T K_e u_e.
        """
        density = densities.T.ravel()  # elements are numbered by columns
        modulus = 1e-9 + density**3 * (1 - 1e-9)
        values = modulus[:, None, None] * STIFFNESS
        rows = np.broadcast_to(self.freedoms[:, :, None], values.shape)
        columns = np.broadcast_to(self.freedoms[:, None, :], values.shape)
        whole = csc_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(self.count, self.count))
        solver = splu(whole[self.free][:, self.free], permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        shift = np.zeros(self.count)
        shift[self.free] = solver.solve(self.load[self.free])
        moved = shift[self.freedoms]
        energy = np.einsum("ei,ij,ej->e", moved, STIFFNESS, moved)
        gradient = -3 * density**2 * (1 - 1e-9) * energy
        return float(modulus @ energy), gradient.reshape(densities.shape[::-1]).T


def element_stiffness(poisson: float = 0.3) -> Array:
    """Return the stiffness of a square element in plane stress with Young's modulus 1, as in the paper."""
    a11 = np.array([[12, 3, -6, -3], [3, 12, 3, 0], [-6, 3, 12, -3], [-3, 0, -3, 12]])
    a12 = np.array([[-6, -3, 0, 3], [-3, -6, -3, -6], [0, -3, -6, 3], [3, -6, 3, -6]])
    b11 = np.array([[-4, 3, -2, 9], [3, -4, -9, 4], [-2, -9, -4, -3], [9, 4, -3, -4]])
    b12 = np.array([[2, -3, 4, -9], [-3, 2, 9, -2], [4, 9, 2, 3], [-9, -2, 3, 2]])
    a, b = (np.block([[each, other], [other.T, each]]) for each, other in ((a11, a12), (b11, b12)))
    return (a + poisson * b) / (1 - poisson**2) / 24


STIFFNESS = element_stiffness()
BETAS = (0.7, 0.99)  # of Adam: with 0.9 the volume swings longer

# ---- the design


@dataclass
class Constraint:
    """The augmented Lagrangian of mean density = `share`, relative to it."""

    share: float
    multiplier: float = 2.0
    penalty: float = 20.0

    def loss_and_gradient(self, densities: Array) -> tuple[float, Array]:
        excess = densities.mean() / self.share - 1
        loss = (self.multiplier + self.penalty / 2 * excess) * excess
        slope = (self.multiplier + self.penalty * excess) / self.share / densities.size
        return float(loss), np.full_like(densities, slope)

    def update(self, densities: Array) -> None:
        self.multiplier += self.penalty * (densities.mean() / self.share - 1)


def evaluate(beam: Beam, densities: Array, constraint: Constraint) -> tuple[float, float, Array]:
    """Return the loss, the compliance and the gradient of the loss by the densities.

    The loss contains the logarithm of the compliance, so that the multiplier hardly changes while the compliance falls.
    """
    filtered = beam.filtered(densities)
    compliance, of_compliance = beam.compliance(filtered)
    penalty, of_penalty = constraint.loss_and_gradient(filtered)
    gradient = beam.filtered_gradient(of_compliance / compliance + of_penalty)
    return float(np.log(compliance)) + penalty, compliance, gradient


@dataclass
class Run:
    """Designs by the step after which they are, compliance and volume before each step, and whether bits agree."""

    designs: dict[int, Array] = field(default_factory=dict)
    compliance: list[float] = field(default_factory=list)
    volume: list[float] = field(default_factory=list)
    same_bits: bool = True


def optimize(args: Namespace) -> Run:
    beam, constraint, run = Beam(args.width, args.height, args.radius), Constraint(args.volume), Run()
    densities = np.full(beam.shape, args.volume)
    clipped = densities.copy()
    opt = fo.Adam(densities, lr=args.lr, betas=BETAS, bounds=(0, 1))
    free = fo.Adam(clipped, lr=args.lr, betas=BETAS)
    shown = {max(1, round(args.steps * share)) for share in (0.04, 0.12, 0.3, 1)}
    for step in tqdm(range(1, args.steps + 1), unit="step"):
        _, compliance, gradient = evaluate(beam, densities, constraint)
        run.compliance.append(compliance)
        run.volume.append(float(beam.filtered(densities).mean()))
        opt.step(gradient)
        free.step(gradient)
        np.clip(clipped, 0, 1, out=clipped)
        run.same_bits &= np.array_equal(densities, clipped)
        if step % 10 == 0:
            constraint.update(beam.filtered(densities))
        if step in shown:
            run.designs[step] = beam.filtered(densities)
    return run


# ---- the time of a step

COUNTS = (4_800, 100_000, 1_000_000)


def time_steps(rounds: int) -> list[tuple[str, str, str, str]]:
    """Time a step with bounds and a step that is clipped afterwards, in turn, and report the fastest of each."""
    rows = []
    for count in COUNTS:
        rng = np.random.default_rng(0)
        bounded, clipped = np.full(count, 0.5), np.full(count, 0.5)
        grad = rng.standard_normal(count)
        opt, free = fo.Adam(bounded, lr=0.01, bounds=(0, 1)), fo.Adam(clipped, lr=0.01)
        seconds: list[tuple[float, float]] = []
        for _ in range(rounds):
            begin = perf_counter()
            opt.step(grad)
            middle = perf_counter()
            free.step(grad)
            np.clip(clipped, 0, 1, out=clipped)
            seconds.append((middle - begin, perf_counter() - middle))
        fastest = np.min(seconds, axis=0) * 1e6
        rows.append((f"{count:,}", f"{fastest[0]:,.1f} us", f"{fastest[1]:,.1f} us", f"{fastest[1] / fastest[0]:.2f}"))
    return rows


def draw(run: Run, args: Namespace) -> None:
    title = f"Half an MBB beam of {args.width} x {args.height} elements with {args.volume:.0%} of the volume"
    figure, axes = panels(6, 12.5, 4.4, title, rows=2, shares=(3, 3, 2))
    for panel, (step, design) in zip((axes[0], axes[1], axes[3], axes[4]), run.designs.items(), strict=False):
        panel.imshow(1 - design, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set(title=f"after {step} steps", xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
        panel.grid(False)
    for i, (panel, values) in enumerate(((axes[2], run.compliance), (axes[5], run.volume))):
        panel.plot(values, linewidth=1.8, **look(i))
    loss_axes(axes[2], "Compliance", args.steps)
    axes[5].axhline(args.volume, color=INK, linewidth=0.8, linestyle="--")
    axes[5].set(title="Volume", xlabel="step", xlim=(0, args.steps))
    axes[2].set(xlabel="", xticks=axes[5].get_xticks())
    save(figure, args.output)


def parse() -> Namespace:
    parser = make_parser(__doc__, "topology.png")
    add = parser.add_argument
    add("--width", type=positive, metavar="N", default=120, help="elements along the beam (default 120)")
    add("--height", type=positive, metavar="N", default=40, help="elements across the beam (default 40)")
    add(
        "--radius",
        type=number(0, 1000),
        metavar="X",
        default=2.4,
        help="radius of the filter (default 2.4)",
    )
    add("--volume", type=number(0, 1), metavar="X", default=0.5, help="mean density (default 0.5)")
    add("--steps", type=positive, metavar="N", default=150, help="steps of Adam (default 150)")
    add("--lr", type=number(0, 1000), metavar="X", default=0.03, help="learning rate (default 0.03)")
    add("--rounds", type=positive, metavar="N", default=100, help="steps whose time is measured (default 100)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    run = optimize(args)
    rows = [(str(step), f"{run.compliance[step - 1]:.1f}", f"{run.volume[step - 1]:.4f}") for step in run.designs]
    print(table(("step", "compliance", "volume"), rows, text_columns=0))
    print(
        f"The densities with bounds and those clipped afterwards have {'the same' if run.same_bits else 'other'} bits"
    )
    print(table(("densities", "with bounds", "clipped afterwards", "ratio"), time_steps(args.rounds), text_columns=0))
    draw(run, args)


if __name__ == "__main__":
    main()
