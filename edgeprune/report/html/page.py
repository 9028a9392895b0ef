"""Page of a run: one HTML file that needs no network and no script."""

from __future__ import annotations

from edgeprune import __version__
from edgeprune.records.trial import FitResult
from edgeprune.report.html.sections import sections, verdict_sentence


def page(result: FitResult) -> str:
    """HTML document of a fit's result.

    Everything that comes from outside is escaped.
    Raises `ModuleNotFoundError` where jinja2 or matplotlib is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("edgeprune.report.html", "."), autoescape=True, undefined=StrictUndefined
    )
    return pages.get_template("page.html.jinja").render(
        title=f"edgeprune: {result.out}",
        kind=result.verdict.kind,
        verdict=verdict_sentence(result),
        sections=sections(result),
        version=__version__,
    )
