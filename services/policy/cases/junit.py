"""Results of test files in the XML form of JUnit, which CI systems read. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from services.policy.cases.testreport import FileResult
from services.policy.cases.testrun import CaseResult, Failure

# What XML 1.0 cannot hold, not even escaped.
_UNSPEAKABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(files: Sequence[FileResult]) -> str:
    """One test suite for each file, one test case for each case."""
    root = ET.Element("testsuites", _counts(files))
    for file in files:
        suite = ET.SubElement(root, "testsuite", {"name": _clean(file.name), **_counts([file])})
        for case in file.cases:
            _add_case(suite, file.name, case)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _counts(files: Sequence[FileResult]) -> dict[str, str]:
    return {
        "tests": str(sum(len(file.cases) for file in files)),
        "failures": str(sum(file.failed for file in files)),
        "errors": "0",
        "time": f"{sum(file.seconds for file in files):.3f}",
    }


def _add_case(suite: ET.Element, file_name: str, case: CaseResult) -> None:
    attributes = {"name": _clean(case.name), "classname": _clean(file_name), "line": str(case.line)}
    element = ET.SubElement(suite, "testcase", attributes)
    if case.failures:
        texts = [_text(one) for one in case.failures]
        failure = ET.SubElement(element, "failure", {"message": texts[0]})
        failure.text = "\n".join(texts)


def _text(failure: Failure) -> str:
    subject = ", ".join(part for part in (failure.flow, failure.what) if part)
    because = f" ({failure.because})" if failure.because else ""
    return _clean(f"{subject}: expected {failure.expected}, got {failure.actual}{because}")


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub("?", text)
