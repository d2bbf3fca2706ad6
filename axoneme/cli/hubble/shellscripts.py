"""`axoneme completion SHELL` and `axoneme version`."""

from __future__ import annotations

import platform
import sys
from typing import Final

import click

SHELLS: Final = ("bash", "zsh", "fish", "powershell")
VARIABLE: Final = "_AXONEME_COMPLETE"
COMPLETION_EPILOG: Final = """\b
Examples:
  axoneme completion bash > /etc/bash_completion.d/axoneme
  axoneme completion zsh > "${fpath[1]}/_axoneme"
  axoneme completion fish > ~/.config/fish/completions/axoneme.fish
  axoneme completion powershell >> $PROFILE"""
VERSION_EPILOG: Final = """\b
Examples:
  axoneme version                 axoneme, Python and gRPC"""
POWERSHELL: Final = """\
Register-ArgumentCompleter -Native -CommandName axoneme -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $line = $commandAst.ToString().PadRight($cursorPosition, ' ').Substring(0, $cursorPosition)
    $env:_AXONEME_COMPLETE = 'fish_complete'
    $env:COMP_WORDS = $line
    $env:COMP_CWORD = $wordToComplete
    try {
        axoneme | ForEach-Object {
            $type, $rest = $_ -split ',', 2
            $value, $help = $rest -split "`t", 2
            if (-not $help) { $help = $value }
            if ($type -eq 'plain') {
                [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $help)
            }
        }
    } finally {
        Remove-Item Env:_AXONEME_COMPLETE, Env:COMP_WORDS, Env:COMP_CWORD
    }
}
"""


@click.command("completion", epilog=COMPLETION_EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and values."""
    if shell == "powershell":
        click.echo(POWERSHELL, nl=False)
        return
    from click.shell_completion import get_completion_class

    from axoneme.cli.main import root

    kind = get_completion_class(shell)
    assert kind is not None
    if shell == "bash":  # click asks the bash of this machine for its version, which may not be there
        kind._check_version = staticmethod(lambda: None)  # type: ignore[attr-defined]  # noqa: SLF001
    click.echo(kind(root, {}, "axoneme", VARIABLE).source())


@click.command("version", epilog=VERSION_EPILOG)
def version() -> None:
    """Print the version and what it runs on."""
    from importlib import metadata

    system = f"{platform.system().lower()}/{platform.machine()}"
    own, grpc = metadata.version("axoneme"), metadata.version("grpcio")
    click.echo(f"axoneme {own} with Python {platform.python_version()}, gRPC {grpc} on {system}")
    sys.stdout.flush()
