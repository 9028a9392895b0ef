"""Pictures of rows: a bar or a dot for each name, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeprune.report.html.axis_scale import few_ticks, scale_axis
from edgeprune.report.html.budget_use import LineUse
from edgeprune.report.html.canvas import DrawingSize, Ink, picture
from edgeprune.report.html.device_state import MachineSpeed, SessionWait
from edgeprune.report.html.kept_widths import GroupWidth
from edgeprune.report.html.layer_times import LayerTime
from edgeprune.report.html.parts import NumberTable, Picture
from edgeprune.report.html.recovery_steps import MetricStep, RecoveryStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 26  # pixels, of up to MANY rows; more become thinner, and not each of them has its name
MANY = 40
THIN = 9
AROUND = 78  # pixels above and below the rows: axis and legend
NAMES = {True: 15, False: 40}  # characters of a row's name, on a phone and on a screen


def budget_picture(uses: Sequence[LineUse]) -> Picture:
    """Bars of the share of each budget line that is used. uses: those with a share, at least one."""
    shares = [use.share or 0.0 for use in uses]

    def draw(axes: Axes, size: DrawingSize) -> None:
        inks = [Ink.LIMIT if use.broken else Ink.CHOSEN for use in uses]
        axes.barh(range(len(uses)), [100 * share for share in shares], 0.6, color=inks)
        top = 100 * max(1.0, *shares)
        for at, (use, share) in enumerate(zip(uses, shares, strict=True)):
            words = f"{share:.1%}{', broken' * use.broken}"
            axes.text(max(100 * share, 100.0) + 0.02 * top, at, words, va="center")  # right of the limit
        axes.axvline(100, color=Ink.LIMIT, linestyle="--", linewidth=1.5)
        axes.set_xlim(0, (1.9 if size.narrow else 1.3) * top)
        axes.set_xlabel(
            "% of what is allowed" if size.narrow else "% of what the budget allows (dashed: all)"
        )
        few_ticks(axes, size)
        _name_rows(axes, size, [use.label for use in uses])

    return picture(
        "budget",
        "Used share of each budget line",
        f"Bars of the used share of each budget line. {'; '.join(use.words for use in uses)}.",
        NumberTable(
            "Budget lines",
            ("line", "used", "value", "limit"),
            tuple(
                (use.label, "-" if use.share is None else f"{use.share:.1%}", use.value, use.limit)
                for use in uses
            ),
        ),
        draw,
        _height(len(uses)),
    )


def width_picture(groups: Sequence[GroupWidth], chosen: str, key: str) -> Picture:
    """Bars of the units of each group in the dense model, with those that are kept in them.

    key: of the picture, for each budget has its own.
    """

    def draw(axes: Axes, size: DrawingSize) -> None:
        places = range(len(groups))
        dense, kept = [each.dense for each in groups], [each.kept for each in groups]
        axes.barh(places, dense, 0.72, color="none", edgecolor=Ink.DENSE, linewidth=1.2, label="dense")
        axes.barh(places, kept, 0.72, color=Ink.CHOSEN, label="kept")
        axes.set_xlabel("units")
        axes.set_xlim(0, 1.05 * max(dense))
        few_ticks(axes, size)
        _name_rows(axes, size, [each.name for each in groups])
        axes.figure.legend(loc="outside lower center", ncols=2)

    left = sum(each.kept == 0 for each in groups)
    whole = sum(each.kept == each.dense for each in groups)
    return picture(
        key,
        f"Units of each group along the network, dense and kept by {chosen}",
        f"Bars of the units of {len(groups)} groups along the network: {chosen} keeps "
        f"{sum(each.kept for each in groups)} of {sum(each.dense for each in groups)} units; {whole} groups "
        f"are whole, {left} left with their branch.",
        NumberTable(
            "Widths of groups, from input to output",
            ("group", "dense", "kept", "share"),
            tuple((g.name, f"{g.dense}", f"{g.kept}", f"{g.kept / g.dense:.0%}") for g in groups),
        ),
        draw,
        _height(len(groups)),
    )


def layer_picture(layers: Sequence[LayerTime], chosen: str) -> Picture:
    """Bars of the milliseconds of each layer, in the dense model and in the chosen candidate."""

    def draw(axes: Axes, size: DrawingSize) -> None:
        for ink, label, shift, found in (
            (Ink.DENSE, "dense", -0.19, [each.dense_ms or 0.0 for each in layers]),
            (Ink.CHOSEN, chosen, 0.19, [each.chosen_ms or 0.0 for each in layers]),
        ):
            axes.barh([at + shift for at in range(len(layers))], found, 0.36, color=ink, label=label)
        axes.set_xlabel("ms")
        few_ticks(axes, size)
        _name_rows(axes, size, [each.name for each in layers])
        axes.figure.legend(loc="outside lower center", ncols=2)

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    slowest = max(layers, key=lambda each: each.dense_ms or 0.0)
    return picture(
        "layers",
        "Milliseconds of each layer, dense and chosen",
        f"Bars of the milliseconds of {len(layers)} layers. Of the dense model {slowest.name} takes most, "
        f"{ms(slowest.dense_ms)} ms; in {chosen} it takes {ms(slowest.chosen_ms)} ms.",
        NumberTable(
            "Milliseconds of layers, from input to output",
            ("layer", "dense", chosen),
            tuple((each.name, ms(each.dense_ms), ms(each.chosen_ms)) for each in layers),
        ),
        draw,
        _height(len(layers), ROW + 4),
    )


def recovery_picture(steps: Sequence[RecoveryStep]) -> Picture:
    """Arrows from the error before each rung to the error after it."""

    def draw(axes: Axes, size: DrawingSize) -> None:
        for at, step in enumerate(steps):
            ink = Ink.CHOSEN if step.kept else Ink.TRIAL
            axes.plot([step.before, step.after], [at, at], color=ink, linewidth=2)
            axes.plot([step.before], [at], "o", color=Ink.DENSE, markersize=8)
            axes.plot([step.after], [at], "D", color=ink, markersize=8)
        axes.plot([], [], "o", color=Ink.DENSE, label="before")
        axes.plot([], [], "D", color=Ink.CHOSEN, label="after, kept")
        if not all(step.kept for step in steps):
            axes.plot([], [], "D", color=Ink.TRIAL, label="after, not kept")
        scale_axis(axes, size, [each for step in steps for each in (step.before, step.after)])
        axes.set_xlabel("error on held-back data")
        _name_rows(axes, size, [step.rung for step in steps])
        axes.figure.legend(loc="outside lower center", ncols=2 if size.narrow else 3)

    told = "; ".join(
        f"{step.rung} from {step.before:.4g} to {step.after:.4g}, {'kept' if step.kept else 'not kept'}"
        for step in steps
    )
    return picture(
        "recovery",
        "Error before and after each recovery step",
        f"Error on held-back data before and after each recovery step: {told}.",
        NumberTable(
            "Recovery steps, in order",
            ("step", "error before", "error after", "kept"),
            tuple(
                (step.rung, f"{step.before:.4g}", f"{step.after:.4g}", "yes" if step.kept else "no")
                for step in steps
            ),
        ),
        draw,
        _height(len(steps)),
    )


def metric_picture(metric: str, steps: Sequence[MetricStep], written: Callable[[float], str]) -> Picture:
    """Dots of the metric of the dense model and of each state of the chosen candidate."""
    return _dots(
        "metrics",
        f"{metric} of the dense model and along the recovery",
        metric,
        [(step.state, step.metric) for step in steps],
        written,
    )


def speed_picture(speeds: Sequence[MachineSpeed]) -> Picture:
    """Dots of the dense model's milliseconds, which ran in turn with each trial: the machine's speed."""
    return _dots(
        "speed",
        "The machine's speed: the dense model beside each trial",
        "ms of the dense model",
        [(each.name, each.reference_ms) for each in speeds],
        lambda ms: f"{ms:.4g}",
    )


def waiting_picture(waits: Sequence[SessionWait]) -> Picture:
    """Stacked bars of the shares of a session's time that were taken from it."""
    parts = (
        ("other processes", Ink.LIMIT, [each.taken.others for each in waits]),
        ("hypervisor", Ink.INT8, [each.taken.hypervisor for each in waits]),
        ("CPU quota", Ink.TRIAL, [each.taken.quota for each in waits]),
        ("its own threads", Ink.DENSE, [each.taken.own for each in waits]),
    )

    def draw(axes: Axes, size: DrawingSize) -> None:
        left = [0.0] * len(waits)
        for name, ink, shares in parts:
            found = [100 * (share or 0.0) for share in shares]
            axes.barh(range(len(waits)), found, 0.6, left=left, color=ink, label=name)
            left = [a + b for a, b in zip(left, found, strict=True)]
        axes.set_xlim(0, max(1.0, 1.05 * max(left)))
        axes.set_xlabel("% of the session's time")
        few_ticks(axes, size)
        _name_rows(axes, size, [each.name for each in waits])
        axes.figure.legend(loc="outside lower center", ncols=2 if size.narrow else 4)

    def share(value: float | None) -> str:
        return "not counted" if value is None else f"{value:.2%}"

    told = "; ".join(f"{each.name}: {each.taken.words or 'hardly any of its time'}" for each in waits)
    return picture(
        "waiting",
        "Share of the time that sessions waited for a CPU",
        f"Share of the time in which sessions were ready to run and had no CPU. {told}.",
        NumberTable(
            "Waiting, by who had the CPU",
            ("session", *(name for name, _, _ in parts)),
            tuple(
                (each.name, *(share(shares[at]) for _, _, shares in parts)) for at, each in enumerate(waits)
            ),
        ),
        draw,
        _height(len(waits), ROW, AROUND + 20),
    )


def _dots(
    key: str, title: str, unit: str, values: Sequence[tuple[str, float]], written: Callable[[float], str]
) -> Picture:
    """Picture of one dot for each name."""

    def draw(axes: Axes, size: DrawingSize) -> None:
        low, high = min(value for _, value in values), max(value for _, value in values)
        around = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        axes.hlines(range(len(values)), low - around, [v for _, v in values], color=Ink.GRID, linewidth=1)
        axes.plot([v for _, v in values], range(len(values)), "D", color=Ink.CHOSEN, markersize=7)
        axes.set_xlim(low - around, high + around)
        axes.set_xlabel(size.fitted(unit, 24 if size.narrow else 80))
        few_ticks(axes, size)
        _name_rows(axes, size, [name for name, _ in values])

    told = "; ".join(f"{name} {written(value)}" for name, value in values)
    return picture(
        key,
        title,
        f"{title}: {told}.",
        NumberTable(title, ("", unit), tuple((name, written(value)) for name, value in values)),
        draw,
        _height(len(values)),
    )


def _name_rows(axes: Axes, size: DrawingSize, names: Sequence[str]) -> None:
    """Names beside the rows, the first on top; of very many, one in a few."""
    step = 1 if len(names) <= MANY else -(-len(names) * 2 * THIN // (MANY * ROW) + 1)
    places = list(range(0, len(names), max(1, step)))
    axes.set_yticks(places, [size.fitted(names[at], NAMES[size.narrow]) for at in places])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=Ink.TEXT)


def _height(rows: int, row: float = ROW, around: float = AROUND) -> Callable[[DrawingSize], float]:
    return lambda size: around + 8 * size.narrow + rows * (row if rows <= MANY else THIN)
