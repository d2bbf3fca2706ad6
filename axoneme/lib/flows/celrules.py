"""The experimental filter field: expressions in CEL, checked against the type of a flow.

`cel-expr-python` wraps CEL's own C++ implementation: expressions are type-checked when they are compiled, and
their evaluation is bounded. It is an extra (`pip install axoneme[cel]`, 14 MB), loaded when the first
expression comes. As in Hubble, the flow is `_flow`, names of types and enums are those of package `flow`, an
expression must be a bool, several are alternatives, and one that fails on a flow does not match it.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pool

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.flows.rule import Predicate

MAX_LENGTH: Final = 4_096
MAX_EXPRESSIONS: Final = 16
LIBRARY: Final = "cel_expr_python.cel"
VARIABLE: Final = "_flow"


def experimental(where: str, value: flow_pb2.FlowFilter.Experimental) -> Predicate:
    """CEL expressions, one of which must hold. Raises InvalidArgument; Unsupported without the library."""
    expressions = list(value.cel_expression)
    where = f"{where}.cel_expression"
    if len(expressions) > MAX_EXPRESSIONS:
        raise InvalidArgument.of_field(where, f"more than {MAX_EXPRESSIONS} expressions")
    if not expressions:
        return lambda _flow: True
    programs = [_compiled(where, expression) for expression in expressions]
    return lambda flow: any(_holds(program, flow) for program in programs)


def _compiled(where: str, expression: str) -> Any:
    if len(expression) > MAX_LENGTH:
        raise InvalidArgument.of_field(where, f"the expression is longer than {MAX_LENGTH} characters")
    try:
        environment, boolean = _environment()
    except ImportError as error:
        raise Unsupported(f"{where}: needs the package cel-expr-python (extra `cel` of axoneme)") from error
    try:
        program = environment.compile(expression)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidArgument.of_field(where, f"{expression!r} cannot be compiled: {reason}") from error
    if program.return_type() != boolean:
        message = f"{expression!r} is of type {program.return_type().name()}, not bool"
        raise InvalidArgument.of_field(where, message)
    return program


@cache
def _environment() -> tuple[Any, Any]:
    """What compiles expressions, and the type that they must have. Raises ImportError."""
    cel = importlib.import_module(LIBRARY)
    variables = {VARIABLE: cel.Type(flow_pb2.Flow.DESCRIPTOR.full_name)}
    pool = descriptor_pool.Default()
    return cel.NewEnv(pool, variables=variables, container="flow"), cel.Type.BOOL


def _holds(program: Any, flow: flow_pb2.Flow) -> bool:
    try:
        return program.eval(data={VARIABLE: flow}).value() is True
    except (RuntimeError, ValueError):
        return False
