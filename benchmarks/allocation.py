"""`python -m benchmarks.allocation`: how near to the best the allocation comes, and how long it takes.

200 random instances of the kinds below, each with a latency limit or with latency, size and memory limits
together; per kind the largest and the mean proven gap, the share proven optimal to 1e-6, in how many nothing
fits (then the gap is that within the smallest limits that something fits), and processor seconds. Costs are
what layers cost: bilinear in the producer's and the layer's own width, rounded up to a channel multiple,
dearer at odd widths, with a launch overhead; INT8 takes between 0.35 and 1.2 times float.

The kind with borders is built as a fit builds it, from items (`fitting.space.costs`), and that time counts.

`--profile` prints where the time goes instead, `--instances N` takes fewer, `--only WORD` some kinds.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from edgeprune.fitting.space.costs import Item, Switches, cost_terms
from edgeprune.graph.resize import Integers
from edgeprune.search.allocate import allocate
from edgeprune.search.problem import Decision, Problem, Table, Term

INSTANCES = 200
ALL = ("latency_ms", "size_mib", "memory_mib")


@dataclass
class Net:
    """Layers of a made-up network, as terms between groups that know their widths."""

    rng: np.random.Generator
    options: int
    precision: bool = False
    decisions: list[Decision] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    widths: dict[str, Table] = field(default_factory=dict)

    def group(self, branch: str | None = None) -> str:
        """A group whose units' importance falls off log-normally; in a branch it is lost with it."""
        rng = self.rng
        name = f"group{len(self.widths)}"
        units = max(self.options, int(rng.choice([32, 64, 96, 128, 256])))
        scores = np.sort(rng.lognormal(0, rng.uniform(0.3, 1.5), units))[::-1]
        kept = np.linspace(units / self.options, units, self.options).astype(int)
        importance = np.cumsum(scores)[kept - 1] * rng.uniform(0.3, 3)
        self.widths[name] = kept.astype(float)
        if branch is None:
            self.decisions.append(Decision(name, importance))
        else:
            self.decisions.append(Decision(name, np.zeros(kept.size)))
            lost_or_kept = np.stack([np.zeros(kept.size), importance], axis=-1)
            self.terms.append(Term((name, branch), {}, lost_or_kept))
        return name

    def branch(self) -> str:
        """Option 0: dropped; option 1: it stays."""
        name = f"branch{len(self.decisions)}"
        self.decisions.append(Decision(name, np.zeros(2)))
        return name

    def layer(self, producer: str, own: str, branch: str | None = None) -> None:
        """Latency, size and memory of a layer by its producer's width, its own, its precision, its branch."""
        rng = self.rng
        read, made = self.widths[producer][:, None], self.widths[own][None, :]
        multiple = float(rng.choice([4, 8, 16]))
        work = np.ceil(read / multiple) * multiple * np.ceil(made / multiple) * multiple
        odd = 1 + rng.uniform(0, 0.3) * (made % 32 != 0)
        float_ms = rng.uniform(0.2, 3) * 1e-5 * work * odd + rng.uniform(0, 0.02)
        float_mib = 9 * 4 * read * made / 2**20
        tables = {
            "latency_ms": float_ms,
            "size_mib": float_mib,
            "memory_mib": float_mib + rng.uniform(0, 2e-3) * (read + made),
        }
        names = [producer, own]
        if self.precision:
            names.append(f"int8:{producer}:{own}:{len(self.decisions)}")
            self.decisions.append(Decision(names[-1], np.array([0.0, -rng.exponential(0.5)])))
            speed = rng.uniform(0.35, 1.2)
            tables = {
                name: np.stack([table, table * (speed if name == "latency_ms" else 0.26)], axis=-1)
                for name, table in tables.items()
            }
        if branch is not None:
            names.append(branch)
            tables = {name: np.stack([0 * table, table], axis=-1) for name, table in tables.items()}
        self.terms.append(Term(tuple(names), tables))

    def problem(self) -> Problem:
        constant = {"latency_ms": 0.05, "size_mib": 0.02, "memory_mib": 4.0}
        return Problem(tuple(self.decisions), tuple(self.terms), constant)


def chain(rng: np.random.Generator, groups: int, options: int, *, precision: bool = False) -> Problem:
    """A plain network: every layer reads the one before."""
    net = Net(rng, options, precision)
    names = [net.group() for _ in range(groups)]
    for producer, own in pairwise(names):
        net.layer(producer, own)
    return net.problem()


def residual(rng: np.random.Generator, groups: int, options: int, *, precision: bool = False) -> Problem:
    """Four stages; blocks of two layers read and write their stage's width, and may be dropped whole."""
    net = Net(rng, options, precision)
    stages = [net.group() for _ in range(4)]
    for before, after in pairwise(stages):
        net.layer(before, after)
    for at in range(groups - 4):
        stage, branch = stages[at * 4 // (groups - 4)], net.branch()
        inner = net.group(branch)
        net.layer(stage, inner, branch)
        net.layer(inner, stage, branch)
    return net.problem()


def bordered(rng: np.random.Generator, groups: int, options: int) -> Problem:
    """As `residual` with INT8 per layer, and with a conversion wherever two layers in a row differ."""
    net = Net(rng, options)
    stages = [net.group() for _ in range(4)]
    items: list[Item] = []
    last = ""

    def layer(producer: str, own: str, branch: tuple[str, ...] = ()) -> None:
        nonlocal last
        name = f"int8:{producer}:{own}:{len(net.decisions)}"
        net.decisions.append(Decision(name, np.array([rng.exponential(0.05), 0.0])))
        each, speed, fixed = rng.uniform(0.2, 3) * 1e-5, rng.uniform(0.35, 1.2), rng.uniform(0, 0.02)
        elements = rng.uniform(0, 2e-4)

        def ms(widths: Mapping[str, Integers], on: Switches) -> Table:
            blocks = [np.ceil(widths[group] / 8) * 8 for group in (producer, own)]
            return np.asarray(fixed + each * blocks[0] * blocks[1] * (speed if on[name] else 1.0))

        def mib(widths: Mapping[str, Integers], on: Switches) -> Table:
            return np.asarray(9.0 * (1 if on[name] else 4) * widths[producer] * widths[own] / 2**20)

        def conversion(widths: Mapping[str, Integers], on: Switches, before: str = last) -> Table:
            return np.asarray((0.01 + elements * widths[producer]) * (on[before] != on[name]))

        scope = tuple(dict.fromkeys((producer, own)))
        items.append(Item("latency_ms", scope, ms, (name,), branch))
        items.append(Item("size_mib", scope, mib, (name,), branch))
        items.append(Item("memory_mib", scope, mib, (name,), branch))
        if last:
            items.append(Item("latency_ms", (producer,), conversion, (last, name), branch))
        last = name

    for before, after in pairwise(stages):
        layer(before, after)
    for at in range(groups - 4):
        stage, branch = stages[at * 4 // (groups - 4)], net.branch()
        inner = net.group(branch)
        layer(stage, inner, (branch,))
        layer(inner, stage, (branch,))
    widths = {name: found.astype(int).tolist() for name, found in net.widths.items()}
    terms, constant = cost_terms(items, widths)
    return Problem(tuple(net.decisions), (*net.terms, *terms), constant)


def bottleneck(rng: np.random.Generator, groups: int, options: int) -> Problem:
    """Blocks of three layers with two inner widths: triangles with the stage's."""
    net = Net(rng, options)
    stages = [net.group() for _ in range(4)]
    for before, after in pairwise(stages):
        net.layer(before, after)
    blocks = (groups - 4) // 2
    for at in range(blocks):
        stage = stages[at * 4 // blocks]
        first, second = net.group(), net.group()
        net.layer(stage, first)
        net.layer(first, second)
        net.layer(second, stage)
    return net.problem()


def transformer(rng: np.random.Generator, groups: int, options: int) -> Problem:
    """One width that everything reads and writes, heads and hidden width per block, both in branches."""
    net = Net(rng, options, precision=True)
    width = net.group()
    for _ in range(groups - 1):
        branch = net.branch()
        inner = net.group(branch)
        net.layer(width, inner, branch)
        net.layer(inner, width, branch)
    return net.problem()


def cyclic(rng: np.random.Generator, groups: int, options: int) -> Problem:
    """A chain with skips of any length: as many as a third of its groups."""
    net = Net(rng, options)
    names = [net.group() for _ in range(groups)]
    for producer, own in pairwise(names):
        net.layer(producer, own)
    for _ in range(groups // 3):
        one, other = sorted(rng.choice(groups, 2, replace=False).tolist())
        if other > one + 1:
            net.layer(names[one], names[other])
    return net.problem()


def dense(rng: np.random.Generator, groups: int, options: int) -> Problem:
    """Dense blocks of six layers, each reading all before it in its block."""
    net = Net(rng, options)
    names = [net.group() for _ in range(groups)]
    for at, own in enumerate(names):
        for producer in names[max(0, at - at % 6 - 1) : at]:
            net.layer(producer, own)
    return net.problem()


@dataclass(frozen=True)
class Kind:
    """built: making the problem counts in its time."""

    name: str
    make: Callable[[np.random.Generator], Problem]
    built: bool = False


KINDS = (
    Kind("chain of 60 x 32", lambda rng: chain(rng, 60, 32)),
    Kind("chain of 60 x 32, INT8 per layer", lambda rng: chain(rng, 60, 32, precision=True)),
    Kind("residual stages, 60 x 32, branches", lambda rng: residual(rng, 60, 32)),
    Kind("the same, INT8 per layer", lambda rng: residual(rng, 60, 32, precision=True)),
    Kind("the same, with borders, built too", lambda rng: bordered(rng, 60, 32), built=True),
    Kind("bottlenecks, 60 x 32", lambda rng: bottleneck(rng, 60, 32)),
    Kind("transformer, 49 x 12, branches, INT8", lambda rng: transformer(rng, 49, 12)),
    Kind("skips at random, 60 x 32", lambda rng: cyclic(rng, 60, 32)),
    Kind("dense blocks, 60 x 32", lambda rng: dense(rng, 60, 32)),
    Kind("chain of 6 x 8", lambda rng: chain(rng, 6, 8)),
    Kind("residual stages, 10 x 8, branches, INT8", lambda rng: residual(rng, 10, 8, precision=True)),
)


def whole(problem: Problem) -> dict[str, int]:
    """The dense model: the last width, branches kept, float."""
    return {
        each.name: 0 if each.name.startswith("int8:") else each.values.size - 1 for each in problem.decisions
    }


def limits(problem: Problem, resources: tuple[str, ...], rng: np.random.Generator) -> dict[str, float]:
    """Between a quarter and nine tenths of what the dense model takes."""
    return {name: problem.cost(whole(problem), name) * rng.uniform(0.25, 0.9) for name in resources}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--only", default="", metavar="WORD")
    asked = parser.parse_args()
    if asked.profile:
        profile()
        return
    each = max(1, asked.instances // (2 * len(KINDS)))
    kinds = [kind for kind in KINDS if asked.only.lower() in kind.name.lower()]
    print(f"{'kind':42} | limits | gap max | gap mean | optimal | no fit | s max | s mean", flush=True)
    over = 0
    for kind in kinds:
        for resources in (ALL[:1], ALL):
            gaps, seconds, misses = [], [], 0
            for seed in range(each):
                rng = np.random.default_rng(seed)
                started = time.process_time()
                problem = kind.make(rng)
                held = limits(problem, resources, rng)
                if not kind.built:
                    started = time.process_time()
                got = allocate(problem, held)
                seconds.append(time.process_time() - started)
                gaps.append(got.gap)
                misses += not got.feasible
            over += sum(gap > 0.01 for gap in gaps)
            print(
                f"{kind.name:42} | {len(resources):6} | {max(gaps):7.3%} | {np.mean(gaps):8.3%} "
                f"| {np.mean(np.array(gaps) <= 1e-6):7.0%} | {misses:6} "
                f"| {max(seconds):5.2f} | {np.mean(seconds):5.2f}",
                flush=True,
            )
    print(f"\n{over} of {each * 2 * len(kinds)} instances have a gap above 1 %")


def profile() -> None:
    for kind in KINDS:
        rng = np.random.default_rng(0)
        problem = kind.make(rng)
        held = limits(problem, ALL, rng)
        with cProfile.Profile() as run:
            allocate(problem, held)
        print(kind.name)
        pstats.Stats(run).sort_stats("tottime").print_stats(8)


if __name__ == "__main__":
    main()
