"""`axoneme policy test` and `axoneme policy validate`: what can be said of files without a cluster.

Both read files here and leave the rest to `testrun` and `validate`, which are loaded by the command that
needs them: the group stays quick to start. Neither imports gRPC.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from axoneme.cli.render import output_option, print_json
from services.policy.commands.clifaults import fault_lines
from services.policy.reading.faults import InvalidPolicy

if TYPE_CHECKING:
    from services.policy.cases.testreport import FileResult
    from services.policy.cases.testrun import CaseResult
    from services.policy.cases.validate import Finding

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
FAILED: Final = 1
BAD_FILE: Final = 2
STDIN: Final = "-"
_SUFFIXES: Final = (".yaml", ".yml", ".json")


class _BadFileError(Exception):
    """A file that cannot be used; its lines were printed."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-k", "substring", default="", metavar="TEXT", help="Only cases whose name contains this text.")
@click.option("--fail-fast", is_flag=True, help="Stop after the first case that fails.")
@click.option("-q", "--quiet", is_flag=True, help="Print failures only.")
@click.option("--junit", default="", metavar="FILE", help="Write the results as JUnit XML too.")
@output_option
def test(
    files: tuple[str, ...], substring: str, fail_fast: bool, quiet: bool, junit: str, output: str
) -> None:
    """Test policies against expected verdicts, without a cluster.

    Files are YAML or JSON, directories are searched for them, - is standard input. Ends with code 1 when an
    expectation fails, with 2 when a file is no test file.

    \b
    Examples:
      axoneme policy test examples/policytests/flows.yaml
      axoneme policy test tests/ -k database --junit results.xml
    """
    from services.policy.cases.junit import junit_xml
    from services.policy.cases.testreport import as_json, report_lines

    try:
        results = _run_files(files, substring, fail_fast)
    except _BadFileError as error:
        raise click.exceptions.Exit(BAD_FILE) from error
    if junit:
        _write(junit, junit_xml(results))
    if output == "json":
        print_json(as_json(results))
    else:
        for line in report_lines(results, quiet=quiet):
            click.echo(line)
    if substring and not any(file.cases for file in results):
        click.echo(f"Error: no case has {substring!r} in its name", err=True)
        raise click.exceptions.Exit(BAD_FILE)
    if any(file.failed for file in results):
        raise click.exceptions.Exit(FAILED)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-n", "--namespace", default="default", help="Namespace of policies that name none.")
@output_option
def validate(files: tuple[str, ...], namespace: str, output: str) -> None:
    """Check policies without a cluster: every fault, and traps that can be seen in the files.

    Files are YAML or JSON, directories are searched for them, - is standard input. Ends with code 1 when a
    policy would be refused; warnings alone end with 0.

    \b
    Examples:
      axoneme policy validate examples/policies
      kustomize build . | axoneme policy validate -
    """
    from services.policy.cases.validate import Text, findings_json
    from services.policy.cases.validate import validate as find

    try:
        texts = [Text(name, text) for name, text in _texts(files)]
    except _BadFileError as error:
        raise click.exceptions.Exit(FAILED) from error
    with _without_collection():
        findings = find(texts, namespace)
    if output == "json":
        print_json(findings_json(findings))
    else:
        _print_findings(findings, len(texts))
    if any(one.error for one in findings):
        raise click.exceptions.Exit(FAILED)


def _print_findings(findings: list[Finding], files: int) -> None:
    for one in findings:
        click.echo(str(one))
    errors = sum(one.error for one in findings)
    counts = ((files, "file"), (errors, "error"), (len(findings) - errors, "warning"))
    click.echo(", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts))


def _run_files(files: tuple[str, ...], substring: str, fail_fast: bool) -> list[FileResult]:
    results: list[FileResult] = []
    with _without_collection():
        for name, text in _texts(files):
            result = _run_file(name, text, substring, fail_fast)
            results.append(result)
            if fail_fast and result.failed:
                break
    return results


def _run_file(name: str, text: str, substring: str, fail_fast: bool) -> FileResult:
    from services.policy.cases.testfile import read_cases
    from services.policy.cases.testreport import FileResult
    from services.policy.cases.testrun import run_case

    start = time.perf_counter()
    try:
        cases = read_cases(text)
    except InvalidPolicy as error:
        for line in fault_lines(name, error.violations):
            click.echo(f"Error: {line}", err=True)
        raise _BadFileError from error
    results: list[CaseResult] = []
    for case in cases:
        if substring in case.name:
            results.append(run_case(case))
            if fail_fast and not results[-1].passed:
                break
    return FileResult(name=name, cases=tuple(results), seconds=time.perf_counter() - start)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A run is bounded by its files; looking for cycles among their many values would double its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _texts(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for given in files:
        for name in _in_directory(given) if given != STDIN and Path(given).is_dir() else [given]:
            yield ("<stdin>" if name == STDIN else name), _read(name)


def _in_directory(name: str) -> list[str]:
    found = sorted(str(path) for path in Path(name).rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not found:
        _refuse(name, f"holds no file that ends with {', '.join(_SUFFIXES)}")
    return found


def _read(name: str) -> str:
    try:
        if name == STDIN:
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        _refuse(name, error.strerror or "cannot be read")
    if len(raw) > MAX_FILE_BYTES:
        _refuse(name, f"larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _refuse(name, "is not UTF-8 text")


def _refuse(name: str, reason: str) -> NoReturn:
    click.echo(f"Error: {name}: {reason}", err=True)
    raise _BadFileError


def _write(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        click.echo(f"Error: {name}: {error.strerror}", err=True)
        raise click.exceptions.Exit(BAD_FILE) from error
