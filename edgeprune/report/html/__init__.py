"""A run as one HTML page: prepared as data, drawn as SVG, set by a template.

Prepared, pure, of a `FitResult`:

    budget_use.py      used share of each budget line
    trade_off.py       metric and latency of all trials, with the budgets
    latencies.py       latency distributions
    kept_widths.py     widths along the network, branches that left, layers in float
    layer_times.py     milliseconds by layer
    recovery_steps.py  error and metric along the recovery
    device_state.py    sensors, waiting, the machine's speed

Drawn, by matplotlib:

    canvas.py          SVG in two sizes, coloured by the page
    axis_scale.py      scale and ticks of an axis
    rows.py, points.py pictures of these data

Set:

    parts.py, sections.py   sections, or a sentence about what a run lacks
    page.py                 the document, by `page.html.jinja` beside it
"""

from __future__ import annotations

from edgeprune.report.html.page import page

__all__ = ["page"]
