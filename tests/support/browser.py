"""Pages measured in headless Chromium, each in frames of its own: a screen and a phone, light and dark."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1280, 390)  # pixels
SCHEMES = ("light", "dark")
SECONDS = 240
# What the outer document asks of each frame when all are loaded; `found` holds the answers as JSON.
MEASURE = """
const bright = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
  const one = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return 0.2126 * one(r) + 0.7152 * one(g) + 0.0722 * one(b);
};
const contrast = (a, b) => {
  const [low, high] = [bright(a), bright(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const shown = (node) => node.getClientRects().length > 0;
const measured = (frame) => {
  const document = frame.contentDocument, window = frame.contentWindow;
  const paper = window.getComputedStyle(document.body).backgroundColor;
  const found = {paper, width: window.innerWidth, scrolls: document.documentElement.scrollWidth,
                 figures: {}, overlaps: [], outside: [], faint: [], focus: 0};
  for (const figure of document.querySelectorAll('figure')) {
    const drawings = [...figure.querySelectorAll('svg')].filter(shown);
    found.figures[figure.id] = drawings.map((each) => {
      const {width, height} = each.getBoundingClientRect();
      return [Math.round(width), Math.round(height)];
    });
    for (const drawing of drawings) {
      const around = drawing.getBoundingClientRect();
      const texts = [...drawing.querySelectorAll('text')].map(
        (node) => ({node, text: node.textContent, box: node.getBoundingClientRect()}));
      texts.forEach(({node, text, box}, at) => {
        if (box.left < around.left - 1 || box.right > around.right + 1 ||
            box.top < around.top - 1 || box.bottom > around.bottom + 1)
          found.outside.push([figure.id, text]);
        const ratio = contrast(window.getComputedStyle(node).fill, paper);
        if (ratio < 4.5) found.faint.push([figure.id, text, ratio]);
        for (const other of texts.slice(at + 1)) {
          const wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
          const high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
          if (wide > 1 && high > 3) found.overlaps.push([figure.id, text, other.text]);
        }
      });
    }
  }
  for (const node of document.querySelectorAll('p, li, h1, h2, summary, a, figcaption')) {
    if (shown(node) && node.textContent.trim()) {
      const ratio = contrast(window.getComputedStyle(node).color, paper);
      if (ratio < 4.5) found.faint.push([node.tagName, node.textContent, ratio]);
      if (node.getBoundingClientRect().right > window.innerWidth + 1)
        found.outside.push([node.tagName, node.textContent]);
    }
  }
  const reached = [...document.querySelectorAll('summary, a, .scroll')].filter(
    (node) => node.checkVisibility());
  for (const node of reached) {
    node.focus();
    found.focus += document.activeElement === node;
  }
  found.focusable = reached.length;
  return found;
};
window.addEventListener('load', () => {
  const found = {};
  for (const frame of document.querySelectorAll('iframe')) found[frame.id] = measured(frame);
  const text = JSON.stringify(found).replaceAll('<', '\\\\u003c');  // names may hold the end of a script
  document.getElementById('found').textContent = text;
});
"""


def chromium() -> str:
    """Path of Debian's chromium; the test that asks is skipped where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium: it is not installed here (apt-get install chromium)")
    return found


def measured(pages: Mapping[str, str], folder: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Measures of pages by their name, at every width and in every scheme.

    A page runs no script; the document around its frame does.
    """
    frames = [
        f'<iframe id="{name} {width} {scheme}" srcdoc="{html.escape(text)}" '
        f'style="width: {width}px; height: 900px; border: 0; color-scheme: {scheme}"></iframe>'
        for name, text in pages.items()
        for width in WIDTHS
        for scheme in SCHEMES
    ]
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><script>{MEASURE}</script>{"".join(frames)}'
        '<script type="application/json" id="found"></script>',
        "utf-8",
    )
    line = [chromium(), "--headless", "--disable-gpu", "--dump-dom", f"--user-data-dir={folder / 'profile'}"]
    line += ["--no-sandbox"] * (os.geteuid() == 0) + [outer.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=True)
    answer = done.stdout.rpartition('id="found">')[2].partition("</script>")[0]
    found: dict[tuple[str, int, str], dict[str, Any]] = {}
    for key, value in json.loads(answer).items():
        name, width, scheme = key.rsplit(" ", 2)
        found[name, int(width), scheme] = value
    return found
