"""Configuration: four sources in order, one definition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from axoneme.lib import config
from axoneme.lib.errors import InvalidArgument


@dataclass(frozen=True)
class Sample:
    listen_address: str = config.option("127.0.0.1:1", "where", metavar="HOST:PORT")
    cluster_id: int = config.option(0, "number")
    drain_seconds: float = config.option(5.0, "time")
    verbose: bool = config.option(False, "more words")
    ca_file: Path = config.option(Path("/ca"), "CA")
    targets: tuple[str, ...] = config.option((), "where to")


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('listen_address = "file"\ncluster_id = 1\ndrain_seconds = 1\ntargets = ["a", "b"]\n')
    environ = {"AXONEME_CLUSTER_ID": "2", "AXONEME_DRAIN_SECONDS": "2.5", "AXONEME_OTHER": "x"}
    loaded = config.load(Sample, flags={"drain_seconds": "3"}, environ=environ, file=file)
    assert loaded == Sample(
        listen_address="file", cluster_id=2, drain_seconds=3.0, targets=("a", "b"), verbose=False
    )


def test_defaults_alone() -> None:
    assert config.load(Sample, flags={}, environ={}, file=None) == Sample()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("cluster = 1", "no such setting"),
        ('cluster_id = "x"', "whole number"),
        ("cluster_id = 1.5", "whole number"),
        ("listen_address = 1", "quotes"),
        ('verbose = "maybe"', "boolean"),
        ("drain_seconds = nan", "finite"),
        ("targets = 1", "list"),
        ("= 1", "Invalid"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: str, word: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(content)
    with pytest.raises(InvalidArgument, match=word) as caught:
        config.load(Sample, flags={}, environ={}, file=file)
    assert str(file) in str(caught.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(InvalidArgument) as caught:
        config.load(Sample, flags={"verbose": "x"}, environ={"AXONEME_CLUSTER_ID": "y"}, file=None)
    assert len(caught.value.violations) == 2


def test_missing_file_is_said() -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        config.load(Sample, flags={}, environ={}, file="/does/not/exist.toml")


def run(arguments: list[str], **environ: str) -> tuple[Any, str]:
    seen: list[Any] = []

    @click.command()
    @config.click_options(Sample)
    def serve(config: Sample) -> None:
        seen.append(config)

    result = CliRunner().invoke(serve, arguments, env=environ)
    return (seen[0] if seen else None), result.output


def test_flags_environment_and_file_through_click(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("cluster_id = 7\n")
    loaded, _ = run(
        ["--config", str(file), "--targets", "a, b", "--verbose", "--ca-file", "/x"],
        AXONEME_DRAIN_SECONDS="9",
    )
    assert loaded == Sample(
        cluster_id=7, targets=("a", "b"), verbose=True, ca_file=Path("/x"), drain_seconds=9.0
    )


def test_help_shows_every_field() -> None:
    _, output = run(["--help"])
    for row in config.table(Sample):
        assert row[0] in output
    assert "HOST:PORT" in output
    assert "127.0.0.1:1" in output


def test_wrong_flag_is_a_usage_error() -> None:
    loaded, output = run(["--cluster-id", "x"])
    assert loaded is None
    assert "whole number" in output


def test_table_names_the_environment() -> None:
    assert config.table(Sample)[0] == ("--listen-address", "AXONEME_LISTEN_ADDRESS", "127.0.0.1:1", "where")
