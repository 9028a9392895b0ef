"""A page shows every section of every kind of run, with pictures where there is evidence, else a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from edgeprune.records.trial import FitResult
from edgeprune.report import verdict_lines
from edgeprune.results import load_result
from tests.support import browser, html_runs
from tests.support.runs import make_run

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgeprune.report.html import page
from edgeprune.report.html.canvas import Ink

V0 = Path(__file__).parents[2] / "fixtures" / "v0"
SECTIONS = [
    *("budget", "frontier", "latency", "widths", "layers", "why"),
    *("recovery", "device", "history", "repeat"),
]
VOID = {"meta", "link", "br", "img", "input", "hr"}
MOST_BYTES = 2 * 2**20


class Reader(HTMLParser):
    """What a page holds, read as a browser reads it: tags, attributes and text by section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section = ""
        self.text: dict[str, str] = {}
        self.figures: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = named["id"] or ""
        if tag == "figure":
            self.figures.setdefault(self.section, []).append(named["id"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]


Kind = Callable[[FitResult], FitResult]
Made = Callable[[Kind], tuple[FitResult, str]]
Read = Callable[[Kind], Reader]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Result of a kind and its page, which is drawn once."""
    result = make_run(tmp_path_factory.mktemp("run") / "tiny").result

    @cache
    def of(kind: Kind) -> tuple[FitResult, str]:
        return (shown := kind(result)), page(shown)

    return of


@pytest.fixture
def read(made: Made) -> Read:
    return lambda kind: Reader(made(kind)[1])


@pytest.mark.parametrize("kind", html_runs.KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_run_has_all_sections_and_no_empty_picture(kind: Kind, made: Made) -> None:
    shown, text = made(kind)
    found = Reader(text)
    assert found.open == []
    assert [each["id"] for each in found.named("section")] == SECTIONS
    assert all(found.text[name].strip() for name in SECTIONS)
    assert verdict_lines(shown)[0] in found.text[""]
    assert len(text.encode()) < MOST_BYTES
    ids = [each["id"] for _, each in found.tags if "id" in each]
    assert len(ids) == len(set(ids))
    # Each figure: two drawings, each with a text alternative, and the numbers behind them.
    figures = [figure for each in found.figures.values() for figure in each]
    drawings = [each for each in found.named("svg") if each.get("role") == "img"]
    assert len(drawings) == 2 * len(figures)
    assert all(len(each["aria-label"] or "") > 20 for each in drawings)
    assert len(found.named("details")) == len(figures) == len(found.named("figcaption"))
    assert not [figure for figure in figures if text.count(f'id="{figure}"') != 1]


@pytest.mark.parametrize("kind", html_runs.KINDS, ids=lambda kind: kind.__name__)
def test_a_page_loads_nothing_runs_nothing_and_has_no_colour_of_its_own(kind: Kind, made: Made) -> None:
    text = made(kind)[1]
    found = Reader(text)
    assert found.named("script") == found.named("link") == found.named("img") == []
    assert not [name for _, each in found.tags for name in each if name.startswith("on")]
    links = [each[name] or "" for _, each in found.tags for name in ("href", "src") if name in each]
    assert all(link.startswith("#") for link in links)
    targets = {f"#{each['id']}" for _, each in found.tags if "id" in each}
    assert set(links) <= targets
    styles = " ".join(each["style"] or "" for _, each in found.tags if "style" in each)
    assert "#" not in styles.replace("url(#", "")
    assert not [ink for ink in Ink if ink.value in text]
    assert {f"var({ink.variable})" in styles for ink in (Ink.TEXT, Ink.CHOSEN)} == {True}


def test_names_from_outside_are_text_and_nothing_else(made: Made) -> None:
    text = made(html_runs.nasty)[1]
    found = Reader(text)
    assert "<script" not in text
    assert found.named("script") == []
    for section in ("frontier", "widths", "device", "history", "repeat"):
        assert html_runs.NASTY in found.text[section], section
    assert html_runs.NASTY in found.text[""]
    labels = " ".join(each["aria-label"] or "" for each in found.named("svg"))
    assert html_runs.NASTY in labels


def test_a_whole_run_has_every_picture(read: Read) -> None:
    assert read(html_runs.whole).figures == {
        "budget": ["figure-budget"],
        "frontier": ["figure-trade-off"],
        "latency": ["figure-latency"],
        "widths": ["figure-widths-0"],
        "layers": ["figure-layers"],
        "recovery": ["figure-recovery", "figure-metrics"],
        "device": ["figure-waiting", "figure-speed"],
    }


def test_a_prediction_says_that_nothing_was_measured(read: Read) -> None:
    found = read(html_runs.predicted)
    assert "figure-latency" not in str(found.figures)
    for section in ("latency", "layers", "device"):
        assert "Latency was predicted without a device" in found.text[section]
        assert section not in found.figures
    assert "predicted latency" in found.text["frontier"]


def test_a_run_of_an_earlier_version_says_what_it_did_not_record(read: Read) -> None:
    found = read(html_runs.earlier)
    assert "no curve can be drawn" in found.text["latency"]
    assert "figure-latency" in found.figures["latency"]
    assert "The run recorded no time of single layers" in found.text["layers"]
    assert "Waiting for CPUs was not counted" in found.text["device"]
    assert "The device showed no sensors" in found.text["device"]
    assert "did not record the command, the date and the machine" in found.text["repeat"]


def test_a_run_that_cut_nothing_says_so(read: Read) -> None:
    found = read(html_runs.dense_alone)
    assert "dense keeps all units of all 1 groups: nothing was pruned" in found.text["widths"]
    assert "dense is in float as a whole" in found.text["widths"]
    assert "no dense model in INT8" in found.text["latency"]
    assert "no recovery step" in found.text["recovery"]
    assert {"widths", "recovery"}.isdisjoint(found.figures)


def test_tiers_have_lines_widths_and_the_cascade_of_their_own(read: Read) -> None:
    found = read(html_runs.tiers)
    for budget in ("5 ms", "2.5 ms", "1.2 ms"):
        assert f"{budget}, p90 bound" in found.text["budget"]
    assert "cascade: 2.5 ms answers 80%, 5 ms answers 20% of the requests" in found.text["frontier"]
    assert found.figures["widths"] == ["figure-widths-0", "figure-widths-1"]
    assert "5 ms: dense-int8 keeps all units" in found.text["widths"]


def test_an_open_verdict_and_a_miss_say_their_sentence(read: Read) -> None:
    missed = read(html_runs.missed)
    assert "misses: nothing fits. Closest is trial-01" in missed.text[""]
    assert "over the budget of 2.5 ms" in missed.text["budget"]
    assert "broken" in missed.text["budget"]
    opened = read(html_runs.open_verdict)
    assert "other processes took 27 % of its time" in opened.text[""]


def test_a_run_is_told_with_what_repeats_it(read: Read) -> None:
    told = read(html_runs.whole).text["repeat"]
    for word in ("edgeprune fit task.py --target arm", "2.13.0", "seed7", "Cortex-A76", "2026-11-30T12"):
        assert word in told


@pytest.fixture(scope="module")
def seen(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, int, str], Mapping[str, Any]]:
    """What Chromium measured of the pages of all kinds."""
    pages = {kind.__name__: made(kind)[1] for kind in html_runs.KINDS if browser.chromium()}
    return browser.measured(pages, tmp_path_factory.mktemp("chromium"))


def test_every_figure_is_seen_on_a_screen_and_on_a_phone_in_light_and_dark(
    seen: Mapping[tuple[str, int, str], Mapping[str, Any]], read: Read
) -> None:
    kinds = {kind.__name__: kind for kind in html_runs.KINDS}
    assert set(seen) == set(product(kinds, browser.WIDTHS, browser.SCHEMES))
    for (name, width, _), found in seen.items():
        figures = [each for section in read(kinds[name]).figures.values() for each in section]
        assert list(found["figures"]) == figures
        # One of both drawings, as wide as the page has room for.
        assert all(len(shown) == 1 for shown in found["figures"].values())
        wide = min(width, 892) - 50
        assert all(wide < shown[0][0] <= width for shown in found["figures"].values())


@pytest.mark.parametrize("fault", ["overlaps", "outside", "faint"])
def test_no_text_overlaps_leaves_its_place_or_is_faint(
    fault: str, seen: Mapping[tuple[str, int, str], Mapping[str, Any]]
) -> None:
    assert {key: found[fault] for key, found in seen.items() if found[fault]} == {}


def test_a_page_never_scrolls_sideways_and_its_tables_and_links_have_focus(
    seen: Mapping[tuple[str, int, str], Mapping[str, Any]],
) -> None:
    assert {key: found["scrolls"] for key, found in seen.items() if found["scrolls"] > found["width"]} == {}
    assert all(found["focus"] == found["focusable"] > 9 for found in seen.values())
    papers = {(scheme, found["paper"]) for (_, _, scheme), found in seen.items()}
    assert papers == {("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")}


def test_a_fault_of_a_drawing_would_be_seen(tmp_path: Path) -> None:
    text = (
        '<style>body{background:#fff}</style><figure id="f"><svg width="200" height="50">'
        '<text x="10" y="20" fill="#000">one</text><text x="12" y="22" fill="#000">two</text>'
        '<text x="190" y="40" fill="#ddd">outside</text></svg></figure>'
        '<p style="width: 2000px">wide</p>'
    )
    for found in browser.measured({"faulty": text}, tmp_path).values():
        assert found["overlaps"] == [["f", "one", "two"]]
        assert [text for _, text in found["outside"]] == ["outside", "wide"]
        assert [text for _, text, _ in found["faint"]] == ["outside"]
        assert found["scrolls"] > found["width"]


def test_a_run_folder_of_the_first_schema_is_drawn() -> None:
    found = Reader(page(load_result(V0 / "measured")))
    assert [each["id"] for each in found.named("section")] == SECTIONS
    assert "no cascade" in found.text["frontier"]


def test_a_page_is_the_same_each_time(made: Made) -> None:
    shown, text = made(html_runs.dense_alone)
    assert page(shown) == text
