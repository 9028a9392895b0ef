"""Sections of a page, each with its pictures and numbers, or with one sentence about what a run lacks."""

from __future__ import annotations

from edgeprune.records.trial import FitResult, Report
from edgeprune.report.asked import asked_lines
from edgeprune.report.bottleneck_lines import HEAD, bottleneck_rows, summary_lines
from edgeprune.report.bottlenecks import bottlenecks
from edgeprune.report.figures import counted, milliseconds, score
from edgeprune.report.html.budget_use import budget_uses, each_budget
from edgeprune.report.html.device_state import (
    machine_speeds,
    sensor_readings,
    session_waits,
    state_lines,
)
from edgeprune.report.html.kept_widths import branches_left, float_layers, group_widths
from edgeprune.report.html.latencies import spreads
from edgeprune.report.html.layer_times import layer_times
from edgeprune.report.html.parts import NumberTable, Picture, Section
from edgeprune.report.html.points import latency_picture, trade_off_picture
from edgeprune.report.html.recovery_steps import metric_steps, recovery_steps
from edgeprune.report.html.rows import (
    budget_picture,
    layer_picture,
    metric_picture,
    recovery_picture,
    speed_picture,
    waiting_picture,
    width_picture,
)
from edgeprune.report.html.trade_off import trade_off
from edgeprune.report.missed import is_trained
from edgeprune.report.parts_table import TIMED, parts_head, parts_rows
from edgeprune.report.table import cascade_lines, verdict_lines

NOT_MEASURED = "Latency was predicted without a device"


def sections(result: FitResult) -> tuple[Section, ...]:
    """Sections of a page in the order of reading."""
    return (
        budget_section(result),
        trade_off_section(result),
        latency_section(result),
        width_section(result),
        layer_section(result),
        bottleneck_section(result),
        recovery_section(result),
        device_section(result),
        history_section(result),
        repeat_section(result),
    )


def verdict_sentence(result: FitResult) -> str:
    """The sentence about the verdict that the terminal shows first."""
    return verdict_lines(result)[0]


def budget_section(result: FitResult) -> Section:
    """Verdict's other sentences, and the used share of each budget line."""
    lines = tuple(line.strip() for line in verdict_lines(result)[1:] if line not in asked_lines(result))
    uses = budget_uses(result)
    drawn = [use for use in uses if use.share is not None]
    without = tuple(use.words for use in uses if use.share is None)
    pictures = (budget_picture(drawn),) if drawn else ()
    return Section("budget", "Budget", (*lines, *without), pictures)


def trade_off_section(result: FitResult) -> Section:
    """Metric against latency, and the cascade of several budgets."""
    found = trade_off(result)
    lines = [
        "Each mark is a trial. Filled marks are on the frontier: no other trial beats them in everything."
    ]
    if found.predicted:
        lines.append("Latencies are predicted: they have no bound.")
    else:
        lines.append(
            "A whisker leads from the percentile to its upper bound, which is held against the budget."
        )
    if len({one.profile.name for _, one in each_budget(result)}) > 1:
        lines.append("The trials are seen from the machine that decides the verdict.")
    if result.drafts:
        lines.append(
            f"{len(result.drafts)} drafts were measured by their shapes alone and have no {result.metric}."
        )
    lines += [line.strip() for line in cascade_lines(result)]
    picture = trade_off_picture(found, lambda value: score(value, result))
    return Section("frontier", "Frontier", tuple(lines), (picture,))


def latency_section(result: FitResult) -> Section:
    """Distributions of latency."""
    found = spreads(result)
    if not found:
        return Section("latency", "Latency", (f"{NOT_MEASURED}: how queries vary is not known.",))
    lines = ["The marks on each curve are p50 and p90; the bar is the upper bound that the budget is about."]
    if not all(each.latency.quantiles_ms for each in found):
        lines = [
            "This run stored p50, p90, p99 and the slowest run of its distributions: no curve can be drawn."
        ]
    if not any(report.name.startswith("dense-int8") for report in result.trials):
        lines.append("The run has no dense model in INT8 beside it.")
    tables: tuple[NumberTable, ...] = ()
    if result.whole:
        head = ("trial", *(f"{column}, ms" for column in parts_head()))
        caption = f"Whole queries: {TIMED}"
        tables = (NumberTable(caption, head, tuple(parts_rows(result))),)
    return Section("latency", "Latency", tuple(lines), (latency_picture(found),), tables)


def width_section(result: FitResult) -> Section:
    """Widths of groups, branches that left, and layers that stay float."""
    lines: list[str] = []
    pictures: list[Picture] = []
    tables: list[NumberTable] = []
    for tier, one in each_budget(result):
        name, before = one.chosen.name, f"{tier}: " if tier else ""
        groups = group_widths(one.baseline, one.chosen)
        pruned = [group for group in groups if group.kept != group.dense]
        if not groups:
            lines.append(f"{before}The model has no group that can be pruned.")
        elif not pruned:
            lines.append(f"{before}{name} keeps all units of all {len(groups)} groups: nothing was pruned.")
        else:
            pictures.append(width_picture(groups, name, f"widths-{len(pictures)}"))
        left = branches_left(one.baseline, one.chosen)
        if left:
            lines.append(f"{before}Branches that left: {', '.join(left)}.")
        in_float = float_layers(one.chosen.candidate)
        if in_float:
            tables.append(NumberTable(f"{before}Layers in float in {name}", ("layer", "why"), in_float))
        elif one.chosen.candidate.precision == "float32":
            lines.append(f"{before}{name} is in float as a whole.")
        else:
            lines.append(f"{before}No layer that could be INT8 was left in float.")
    return Section("widths", "Widths and precision", tuple(lines), tuple(pictures), tuple(tables))


def layer_section(result: FitResult) -> Section:
    """Milliseconds by layer."""
    layers = layer_times(result)
    if not layers:
        line = (
            f"{NOT_MEASURED}, layer by layer too."
            if result.chosen.measurement.predicted
            else (
                "The run recorded no time of single layers: its runtime has no profile, or an earlier "
                "version made it."
            )
        )
        return Section("layers", "Where the time goes", (line,))
    lines = (
        "Measured: the runtime's own profiles of both models, each scaled to the median of its queries. A "
        "layer is counted with what runs behind it up to the next one.",
        "What the latency table predicted for the layers of the chosen one is not recorded.",
    )
    return Section("layers", "Where the time goes", lines, (layer_picture(layers, result.chosen.name),))


def bottleneck_section(result: FitResult) -> Section:
    """Bottlenecks of the chosen model, layer by layer."""
    found = bottlenecks(result)
    lines = tuple(line.strip() for line in summary_lines(found, result.metric))
    table = NumberTable(f"Layers of {found.trial}, and what holds them", HEAD, tuple(bottleneck_rows(found)))
    return Section("why", "Why not faster?", lines, (), (table,) if found.layers else ())


def recovery_section(result: FitResult) -> Section:
    """Recovery steps of the chosen candidate."""
    chosen = result.chosen
    steps = recovery_steps(chosen)
    if not steps:
        return Section(
            "recovery",
            "Recovery",
            (f"{chosen.name} went through no recovery step: nothing had to be recovered.",),
        )
    lines = ["A step is kept only where it lowers the error on data that it did not see."]
    lines += [
        f"{each.rung}: {each.epochs} epoch{'s' * (each.epochs != 1)}, {each.steps} steps"
        f"{f' on {each.place}' if each.place else ''}{', stopped early' if each.stopped else ''}."
        for each in chosen.training
    ]
    states = metric_steps(result)
    metric = metric_picture(result.metric, states, lambda value: score(value, result))
    return Section("recovery", "Recovery", tuple(lines), (recovery_picture(steps), metric))


def device_section(result: FitResult) -> Section:
    """State of the device in the proof of the chosen candidate, and from trial to trial."""
    measured = result.chosen.measurement
    if measured.predicted:
        return Section("device", "Device", (f"{NOT_MEASURED}: there is no state of one to show.",))
    lines = [*state_lines(measured)]
    pictures, tables = [], []
    waits = session_waits(result)
    if any(max((each.taken.share, each.taken.own or 0.0)) > 0 for each in waits):
        pictures.append(waiting_picture(waits))
    else:
        counted_ = "Sessions waited for no CPU." if waits else "Waiting for CPUs was not counted in this run."
        lines.append(counted_)
    speeds = machine_speeds(result)
    if len(speeds) > 1:
        pictures.append(speed_picture(speeds))
    else:
        lines.append("No other model ran in turn with the trials, so the machine's speed is not known.")
    readings = sensor_readings(measured.state)
    if readings:
        rows = tuple(
            (each.name, each.before, each.during, each.after, "yes" if each.moved else "no")
            for each in readings
        )
        head = ("sensor", "before", "during", "after", "flag that moved")
        tables.append(NumberTable(f"Sensors around the session of {result.chosen.name}, as read", head, rows))
    else:
        lines.append("The device showed no sensors.")
    return Section("device", "Device", tuple(lines), tuple(pictures), tuple(tables))


def history_section(result: FitResult) -> Section:
    """Trials and drafts in order, and the sentences that the fit told."""
    reports = {each.name: each for each in (result.baseline, *result.trials, result.chosen)}
    head = ("trial", "precision", "trained", result.metric, "p50, ms", "bound, ms", "MiB", "MACs", "verdict")
    trials = NumberTable("Trials, in order", head, tuple(_trial(each, result) for each in reports.values()))
    drafts = NumberTable(
        "Drafts that became no trial: measured by their shapes alone",
        ("draft", "p50, ms", "bound, ms", "MiB"),
        tuple(
            (
                draft.name,
                milliseconds(draft.measurement.latency.p50_ms),
                milliseconds(draft.measurement.latency.bound_ms),
                f"{draft.measurement.size_mib:.3f}",
            )
            for draft in result.drafts
        ),
    )
    lines = result.remarks or ("The run told nothing on its way that is worth reading later.",)
    tables = (trials, drafts) if result.drafts else (trials,)
    return Section("history", "What was tried", lines, (), tables)


def _trial(report: Report, result: FitResult) -> tuple[str, ...]:
    latency = report.measurement.latency
    return (
        *(report.name, report.candidate.precision, "yes" if is_trained(report) else "no"),
        *(score(report.metric, result), milliseconds(latency.p50_ms), milliseconds(latency.bound_ms)),
        *(f"{report.measurement.size_mib:.3f}", counted(report.macs), report.verdict.kind),
    )


def repeat_section(result: FitResult) -> Section:
    """Command, versions and seed by which a fit can be repeated."""
    occasion = result.occasion
    rows = [("target", f"{result.target.name}: {result.target.title}")]
    rows += [("profile", f"{one.profile.name}: {one.profile.title}") for _, one in each_budget(result)]
    rows.append(("runtime", result.chosen.measurement.runtime))
    if occasion is not None:
        rows = [
            ("command", occasion.command),
            ("date", occasion.date),
            ("device", f"{occasion.device} {f'({occasion.machine})' if occasion.machine else ''}".strip()),
            *rows,
            *(("trained on", each) for each in (occasion.trained_on,) if each),
            *((name, version) for name, version in occasion.versions),
            *(("seed", f"{seed}") for seed in (occasion.seed,) if seed is not None),
        ]
    rows += [("took", f"{result.seconds:.0f} s"), ("run folder", result.out)]
    lines = list(asked_lines(result))
    if occasion is None:
        lines.append(
            "An earlier version made this run: it did not record the command, the date and the machine."
        )
    elif not occasion.versions:
        lines.append("An earlier version made this run: it did not record the versions and the seed.")
    table = NumberTable("How to repeat it", ("what", "as it was"), tuple(dict.fromkeys(rows)))
    return Section("repeat", "How to repeat it", tuple(lines), (), (table,))
