"""The root command: a table of name → "module:object", loaded only when the command is used.

Nothing here imports gRPC, so `axoneme --help` and shell completion stay fast. Services and shim bring their
commands in their own `cli.py`; this table is the only place that knows them.
"""

# ruff: noqa: ARG002  the signatures are click's
from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from axoneme.cli.causes import connection_failure
from axoneme.lib import grpcsettings
from axoneme.lib.errors import AxonemeError

assert grpcsettings.ENVIRONMENT


class Entry(NamedTuple):
    """A command: where it is, under which heading it stands, and its line in `--help`."""

    target: str
    group: str
    help: str


CLIENT, LAB, SERVE = "Look and change", "Laboratory and certificates", "Run a part"
TERMINAL = "This terminal"

COMMANDS: dict[str, Entry] = {
    "status": Entry("axoneme.cli.status:status", CLIENT, "Say in words what works and what does not."),
    "observe": Entry("axoneme.cli.observe:observe", CLIENT, "Show flows with verdict and the deciding rule."),
    "list": Entry("axoneme.cli.hubble.lists:list_group", CLIENT, "List nodes and namespaces of a relay."),
    "watch": Entry("axoneme.cli.hubble.lists:watch_group", CLIENT, "Watch the peers that a node names."),
    "policy": Entry("services.policy.cli:policy", CLIENT, "Apply, get, delete and list policies; serve."),
    "identity": Entry("services.identity.cli:identity", CLIENT, "List and get identities; serve."),
    "service": Entry("services.clustermesh.cli:service", CLIENT, "Apply, get, delete and list services."),
    "fqdn": Entry(
        "services.fqdn.cli:fqdn", CLIENT, "Show names that endpoints looked up, and DNS rules; serve."
    ),
    "endpoint": Entry("shim.cli:endpoint", CLIENT, "List, add and delete the endpoints of a node."),
    "monitor": Entry("shim.monitorcli:monitor", CLIENT, "Print a node's drops, traces and verdicts."),
    "trace": Entry(
        "shim.diagnostics.cli:trace", CLIENT, "Trace this machine's kernel: drops, connects, retransmits."
    ),
    "ipcache": Entry("shim.cli:ipcache", CLIENT, "List prefixes and identities as a node's kernel has them."),
    "bpf": Entry("shim.bpfcli:bpf", CLIENT, "Look into the kernel maps of a node."),
    "health": Entry("shim.health.cli:health", CLIENT, "Show which nodes reach each other; probe them."),
    "lab": Entry(
        "axoneme.lab.cli:lab", LAB, "Run a laboratory on this machine: up, down, status, exec, env, demo."
    ),
    "certs": Entry("axoneme.cli.certs:certs", LAB, "Make a CA and certificates, and show them."),
    "node": Entry("shim.cli:node", SERVE, "List nodes; serve all processes of one node."),
    "clustermesh": Entry("services.clustermesh.cli:clustermesh", SERVE, "Serve the clustermesh service."),
    "relay": Entry(
        "services.hubble_relay.cli:relay", SERVE, "Serve the relay, which merges the flows of all nodes."
    ),
    "shim": Entry("shim.cli:shim", SERVE, "Serve the shim of a node alone."),
    "config": Entry(
        "axoneme.cli.hubble.configcommands:config",
        TERMINAL,
        "Settings of observe, list, watch, status --relay.",
    ),
    "completion": Entry(
        "axoneme.cli.hubble.shellscripts:completion", TERMINAL, "Print a completion script for a shell."
    ),
    "version": Entry("axoneme.cli.hubble.shellscripts:version", TERMINAL, "Print the version."),
}


class RootCommand(click.Group):
    """Loads a command when it is named; lists all of them without loading any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module_name, _, attribute = entry.target.partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module_name), attribute)
        except ImportError as error:
            raise click.ClickException(f"axoneme {cmd_name} cannot be loaded: {error}") from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with the nearest name for a mistyped one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(entry.group for entry in COMMANDS.values()):
            rows = [(name, entry.help) for name, entry in COMMANDS.items() if entry.group == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Names from the table; click would load every command for its help."""
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib import metadata

        click.echo(f"axoneme {metadata.version('axoneme')}")
        ctx.exit()


EPILOG = """\b
Examples:
  axoneme lab up                       a cluster with two nodes on this machine
  axoneme status                       what works, what does not and why
  axoneme policy apply -f policy.yaml  who may talk to whom: CiliumNetworkPolicy
  axoneme observe --follow             flows as they happen

\b
Completion: eval "$(axoneme completion bash)" in .bashrc; zsh, fish and powershell give the others."""


@click.command(cls=RootCommand, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def root() -> None:
    """Axoneme: identity-based networking with eBPF, computed once in services and streamed to the nodes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 for an error (one line on stderr), 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        result = root.main(args=arguments, prog_name="axoneme", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except click.exceptions.Exit as error:
        return error.exit_code
    except AxonemeError as error:
        return _fail(describe(error), 1)
    except BrokenPipeError:
        return _closed_pipe()
    except OSError as error:
        return _unwritable(error)
    except Exception as error:
        if not _is_rpc_error(error):
            raise
        from axoneme.lib.rpcerrors import error_from_rpc

        return _fail(describe(error_from_rpc(error)), 1)  # type: ignore[arg-type]


def describe(error: AxonemeError) -> str:
    """An error in one line: message, its violations when the message does not have them, and the reason."""
    if connection := connection_failure(error):
        return f"{connection} ({error.reason})"
    details = [f"{field}: {text}" if field else text for field, text in error.violations]
    extra = [text for text in details if _plain(text) not in _plain(error.message)]
    line = "; ".join([error.message, *extra]).replace("\n", " ")
    return f"{line} ({error.reason})" if error.reason else line


def _plain(text: str) -> str:
    return text.replace(":", "").replace("`", "")


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {message}", err=True)
    return code


def _closed_pipe() -> int:
    """The reader of our output went away: not an error worth a line, but not a success either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _unwritable(error: OSError) -> int:
    """A full disk and its like: one line, and nothing more into a stream that takes nothing."""
    code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _is_rpc_error(error: Exception) -> bool:
    """Without importing gRPC: no such error can exist unless something did."""
    grpc = sys.modules.get("grpc")
    return grpc is not None and isinstance(error, grpc.RpcError)


if __name__ == "__main__":
    sys.exit(main())
