"""Writes docs/api/*.md from the comments of the protos; one page per package of our own API.

Usage: api_docs.py DESCRIPTOR_SET OUT_FOLDER, with a set that protoc made with source info and imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

PREFIX = "axoneme.api."
TYPES = descriptor_pb2.FieldDescriptorProto.Type.items()
SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in TYPES}
Notes = dict[tuple[int, ...], str]
KINDS = {(False, False): "unary", (False, True): "server stream", (True, True): "bidirectional stream"}


def comments(file: descriptor_pb2.FileDescriptorProto) -> Notes:
    """Maps a source path to its leading comment as one paragraph."""
    return {
        tuple(location.path): " ".join(location.leading_comments.split())
        for location in file.source_code_info.location
    }


def type_name(field: descriptor_pb2.FieldDescriptorProto) -> str:
    """The type of a field as a reader would write it."""
    name = field.type_name.lstrip(".").removeprefix(PREFIX) or SCALARS[field.type]
    return f"repeated {name}" if field.label == field.LABEL_REPEATED else name


def message_lines(
    message: descriptor_pb2.DescriptorProto,
    path: tuple[int, ...],
    notes: Notes,
    prefix: str,
) -> list[str]:
    """A heading, the comment and the table of fields of one message, then what is nested in it."""
    if message.options.map_entry:
        return []
    name = f"{prefix}{message.name}"
    lines = [f"### {name}", "", notes.get(path, ""), ""]
    if message.field:
        lines += ["| field | number | type | meaning |", "|---|---|---|---|"]
        lines += [
            f"| {field.name} | {field.number} | {type_name(field)} | {notes.get((*path, 2, index), '')} |"
            for index, field in enumerate(message.field)
        ]
        lines.append("")
    for index, nested in enumerate(message.nested_type):
        lines += message_lines(nested, (*path, 3, index), notes, f"{name}.")
    for index, enum in enumerate(message.enum_type):
        lines += enum_lines(enum, (*path, 4, index), notes, f"{name}.")
    return lines


def enum_lines(
    enum: descriptor_pb2.EnumDescriptorProto,
    path: tuple[int, ...],
    notes: Notes,
    prefix: str,
) -> list[str]:
    """A heading, the comment and the table of values of one enum."""
    lines = [
        f"### {prefix}{enum.name}",
        "",
        notes.get(path, ""),
        "",
        "| value | number | meaning |",
        "|---|---|---|",
    ]
    lines += [
        f"| {value.name} | {value.number} | {notes.get((*path, 2, index), '')} |"
        for index, value in enumerate(enum.value)
    ]
    return [*lines, ""]


def service_lines(file: descriptor_pb2.FileDescriptorProto, notes: Notes) -> list[str]:
    """The services of a file with a row for each method."""
    lines: list[str] = []
    for number, service in enumerate(file.service):
        lines += [
            f"## {service.name}",
            "",
            notes.get((6, number), ""),
            "",
            "| method | kind | what it does |",
            "|---|---|---|",
        ]
        for index, method in enumerate(service.method):
            kind = KINDS[method.client_streaming, method.server_streaming]
            lines.append(f"| {method.name} | {kind} | {notes.get((6, number, 2, index), '')} |")
        lines.append("")
    return lines


def page(file: descriptor_pb2.FileDescriptorProto) -> str:
    """The page of one file."""
    notes = comments(file)
    head = [
        f"# {file.package}",
        "",
        f"Written by `make gen` from `protos/{file.name}`.",
        "",
        notes.get((12,), ""),
        "",
    ]
    body = service_lines(file, notes)
    if file.message_type or file.enum_type:
        body += ["## Messages", ""]
    for index, message in enumerate(file.message_type):
        body += message_lines(message, (4, index), notes, "")
    for index, enum in enumerate(file.enum_type):
        body += enum_lines(enum, (5, index), notes, "")
    return "\n".join(head + body).rstrip() + "\n"


def main(descriptor_set: str, out: str) -> None:
    """Writes one page per package of ours."""
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(descriptor_set).read_bytes())
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for file in files.file:
        if file.package.startswith(PREFIX) and file.package.split(".")[-1].startswith("v"):
            (folder / f"{file.package.removeprefix(PREFIX)}.md").write_text(page(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
