"""JUnit XML of validations: one suite per device, one test case per numbered check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from edgeprune.records.bundle import Check, Outcome, Validation

# Characters that XML 1.0 cannot contain, not even escaped; a device's error message may.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS: dict[Outcome, str] = {"failed": "failure", "inconclusive": "error", "skipped": "skipped"}


def junit(validations: Sequence[Validation]) -> bytes:
    """JUnit XML document in UTF-8; a failed check is a failure, an inconclusive check is an error."""
    root = ElementTree.Element("testsuites")
    for validation in validations:
        suite = ElementTree.SubElement(root, "testsuite", _counts(validation))
        for check in validation.checks:
            suite.append(_case(check, validation))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(validation: Validation) -> dict[str, str]:
    outcomes = [check.outcome for check in validation.checks]
    return {
        "name": _clean(validation.device),
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failed")),
        "errors": str(outcomes.count("inconclusive")),
        "skipped": str(outcomes.count("skipped")),
    }


def _case(check: Check, validation: Validation) -> ElementTree.Element:
    name = f"({check.number}) {check.title}"
    case = ElementTree.Element("testcase", {"classname": _clean(validation.device), "name": name})
    if check.outcome == "passed":
        ElementTree.SubElement(case, "system-out").text = _clean(check.detail)
    else:
        told = ElementTree.SubElement(case, _ELEMENTS[check.outcome], {"message": _clean(check.detail)})
        told.text = _clean(check.hint) or None
    return case


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
