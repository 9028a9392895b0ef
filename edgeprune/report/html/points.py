"""Pictures of milliseconds along an axis: metric against latency, and distributions of latency."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from edgeprune.report.html.axis_scale import scale_axis
from edgeprune.report.html.canvas import DrawingSize, Ink, picture
from edgeprune.report.html.latencies import Spread
from edgeprune.report.html.parts import NumberTable, Picture
from edgeprune.report.html.trade_off import Role, TradeOff, TradePoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

INKS: dict[Role, Ink] = {
    "dense": Ink.DENSE,
    "INT8": Ink.INT8,
    "trial": Ink.TRIAL,
    "chosen": Ink.CHOSEN,
}
MARKS: dict[Role, str] = {"dense": "o", "INT8": "s", "trial": "^", "chosen": "D"}
WORDS: dict[Role, str] = {
    "dense": "dense",
    "INT8": "dense in INT8",
    "trial": "other trials",
    "chosen": "chosen",
}
STYLES = ("-", "--", ":", "-.")
LEGEND = 24  # pixels of a line of the legend


def trade_off_picture(found: TradeOff, written: Callable[[float], str]) -> Picture:
    """Points of all trials, metric against latency, with bounds as whiskers and budgets as lines."""

    def draw(axes: Axes, size: DrawingSize) -> None:
        for point in found.points:
            ink = INKS[point.role]
            if point.bound_ms is not None:
                axes.plot([point.ms, point.bound_ms], [point.metric] * 2, "-", color=ink, linewidth=1.2)
                axes.plot([point.bound_ms], [point.metric], "|", color=ink, markersize=9)
            (mark,) = axes.plot([point.ms], [point.metric], MARKS[point.role], color=ink, markeredgewidth=1.6)
            mark.set_markersize(10 if point.role == "chosen" else 8)
            mark.set_markerfacecolor(ink if point.on_frontier else Ink.PAPER)
        limits = [limit.ms for limit in found.limits if limit.ms is not None]
        for ms in limits:
            axes.axvline(ms, color=Ink.LIMIT, linestyle="--", linewidth=1.5)
        for floor in {limit.floor for limit in found.limits}:
            axes.axhline(floor, color=Ink.LIMIT, linestyle=":", linewidth=1.5)
        scale_axis(axes, size, [*_every_ms(found.points), *limits])
        axes.grid(axis="both")
        axes.set_xlabel(found.latency)
        axes.set_ylabel(size.fitted(found.metric, 28))
        _legend(axes, size, found, bool(limits))

    return picture(
        "trade-off",
        f"{found.metric} against latency of all trials",
        _told(found, written),
        NumberTable(
            "Trials, filled in the picture where they are on the frontier",
            ("trial", found.latency, "bound, ms", found.metric, "frontier", "verdict"),
            tuple(
                (
                    *(
                        point.name,
                        f"{point.ms:.4g}",
                        "-" if point.bound_ms is None else f"{point.bound_ms:.4g}",
                    ),
                    *(written(point.metric), "yes" if point.on_frontier else "no", point.verdict),
                )
                for point in found.points
            ),
        ),
        draw,
        lambda size: 470 if size.narrow else 440,
    )


def _every_ms(points: Sequence[TradePoint]) -> list[float]:
    return [ms for point in points for ms in (point.ms, point.bound_ms) if ms is not None]


def _legend(axes: Axes, size: DrawingSize, found: TradeOff, limited: bool) -> None:
    for role, words in WORDS.items():
        if any(point.role == role for point in found.points):
            axes.plot([], [], MARKS[role], color=INKS[role], markersize=8, label=words)
    if limited:
        several = sum(limit.ms is not None for limit in found.limits) > 1
        label = "budgets of latency" if several else "budget of latency"
        axes.plot([], [], "--", color=Ink.LIMIT, label=label)
    axes.plot([], [], ":", color=Ink.LIMIT, label="worst metric allowed")
    axes.figure.legend(loc="outside lower center", ncols=2 if size.narrow else 3)


def _told(found: TradeOff, written: Callable[[float], str]) -> str:
    shown = [point for point in found.points if point.role != "trial"]
    points = "; ".join(f"{point.name} {point.ms:.4g} ms, {written(point.metric)}" for point in shown)
    budgets = ", ".join(f"{limit.ms:.4g} ms" for limit in found.limits if limit.ms is not None)
    more = len(found.points) - len(shown)
    return (
        f"{found.metric} against {found.latency} of {len(found.points)} trials: {points}"
        f"{f'; and {more} other trials' if more else ''}. Budget: {budgets or 'latency is not limited'}."
    )


def latency_picture(spreads: Sequence[Spread]) -> Picture:
    """Curves of the share of queries that were answered within a time (ECDF), with p50, p90 and the bound."""

    def draw(axes: Axes, size: DrawingSize) -> None:
        for spread, style in zip(spreads, cycle(STYLES)):
            _curve(axes, size, spread, style)
        axes.plot([], [], "|", color=Ink.TEXT, linestyle="", label="bound", markersize=14)
        scale_axis(axes, size, [ms for spread in spreads for ms in _shown_ms(spread)])
        axes.set_ylim(-2, 102)
        axes.set_xlabel("latency of a query, ms")
        axes.set_ylabel("% of queries within it")
        axes.grid(axis="both")
        axes.figure.legend(loc="outside lower center", ncols=1 if size.narrow else 4)

    told = "; ".join(
        f"{each.name} p50 {_ms(each.latency.p50_ms)}, p90 {_ms(each.latency.p90_ms)}, bound of "
        f"p{each.latency.percentile} {_ms(each.latency.bound_ms)} ms"
        for each in spreads
    )
    return picture(
        "latency",
        "Share of queries that are answered within a time",
        f"Share of queries that are answered within a time. {told}.",
        NumberTable(
            "Latency of single queries, ms",
            ("", "p50", "p90", "p99", "slowest", "bound", "runs", "seconds"),
            tuple(map(_latency_row, spreads)),
        ),
        draw,
        lambda size: 330 + LEGEND * (1 + len(spreads) if size.narrow else 1 + len(spreads) // 4),
    )


def _curve(axes: Axes, size: DrawingSize, spread: Spread, style: str) -> None:
    """Curve of one distribution where its quantiles are known, else marks of the percentiles that are."""
    latency, ink, mark = spread.latency, INKS[spread.role], MARKS[spread.role]
    known = [(latency.p50_ms, 50), (latency.p90_ms, 90)]
    if latency.quantiles_ms:
        axes.step(latency.quantiles_ms, range(101), where="post", color=ink, linestyle=style, linewidth=2)
    else:
        known.append((latency.p99_ms, 99))
    axes.plot([ms for ms, _ in known], [percent for _, percent in known], mark, color=ink, markersize=8)
    if latency.bound_ms is not None:
        (bar,) = axes.plot([latency.bound_ms], [latency.percentile], "|", color=ink, markersize=22)
        bar.set_markeredgewidth(2.5)
    label = size.fitted(spread.name, 30)
    axes.plot([], [], mark, color=ink, linestyle=style if latency.quantiles_ms else "", label=label)


def _latency_row(spread: Spread) -> tuple[str, ...]:
    latency = spread.latency
    percentiles = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms, latency.bound_ms)
    return (spread.name, *map(_ms, percentiles), f"{latency.runs}", f"{latency.seconds:.1f}")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _shown_ms(spread: Spread) -> list[float]:
    """Ends of what is shown of a distribution: the slowest hundredth is in the table alone."""
    latency = spread.latency
    first = latency.quantiles_ms[0] if latency.quantiles_ms else latency.p50_ms
    return [first, latency.p99_ms, latency.p99_ms if latency.bound_ms is None else latency.bound_ms]
