"""JUnit XML of validations: one suite per device, one test case per numbered check.

A suite has the device's time and, as properties, what was measured and on what.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from edgeprune.records.bundle import Check, Outcome, Validation

# Characters that XML 1.0 cannot contain, not even escaped; a device's error message may.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ELEMENTS: dict[Outcome, str] = {"failed": "failure", "inconclusive": "error", "skipped": "skipped"}


def junit(validations: Sequence[Validation]) -> bytes:
    """JUnit XML document in UTF-8; a failed check is a failure, an inconclusive check is an error.

    So is one that could not be made because there was no way to the device.
    """
    root = ElementTree.Element("testsuites")
    for validation in validations:
        suite = ElementTree.SubElement(root, "testsuite", _counts(validation))
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in _properties(validation):
            ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
        for check in validation.checks:
            suite.append(_case(check, validation))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _counts(validation: Validation) -> dict[str, str]:
    tags = [_tag(check, validation) for check in validation.checks]
    told = {
        "name": _clean(validation.device),
        "tests": str(len(tags)),
        "failures": str(tags.count("failure")),
        "errors": str(tags.count("error")),
        "skipped": str(tags.count("skipped")),
        "time": f"{validation.seconds:.3f}",
    }
    # JUnit's schema knows no time zone: UTC, as it demands.
    return told | ({"timestamp": validation.began.partition("+")[0]} if validation.began else {})


def _properties(validation: Validation) -> Iterator[tuple[str, str]]:
    """What was measured, on what, and the budget that it was held against."""
    yield "model", validation.model
    yield "verdict", validation.word
    yield "machine", validation.machine
    budget, measured = validation.budget, validation.measurement
    for name in ("latency_ms", "memory_mib", "size_mib"):
        limit = getattr(budget, name)
        if limit is not None:
            yield f"budget.{name}", f"{limit:.6g}"
    if measured is None:
        return
    latency = measured.latency
    yield "runtime", measured.runtime
    yield "threads", str(measured.threads)
    yield "batch", str(measured.batch)
    for percentile in (50, 90, 99):
        yield f"latency_ms.p{percentile}", f"{getattr(latency, f'p{percentile}_ms'):.6g}"
    if latency.bound_ms is not None:
        yield f"latency_ms.p{latency.percentile}_bound", f"{latency.bound_ms:.6g}"
    yield "memory_mib", f"{measured.memory_mib:.6g}"
    yield "size_mib", f"{measured.size_mib:.6g}"


def _tag(check: Check, validation: Validation) -> str:
    """Name of the element that tells an outcome."""
    if check.outcome == "failed" and not validation.reachable:
        return "error"
    return _ELEMENTS.get(check.outcome, "system-out")


def _case(check: Check, validation: Validation) -> ElementTree.Element:
    name = f"({check.number}) {check.title}"
    case = ElementTree.Element("testcase", {"classname": _clean(validation.device), "name": name})
    if check.outcome == "passed":
        ElementTree.SubElement(case, "system-out").text = _clean(check.detail)
    else:
        tag = _tag(check, validation)
        told = ElementTree.SubElement(case, tag, {"message": _clean(check.detail)})
        told.text = _clean(check.hint) or None
    return case


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
