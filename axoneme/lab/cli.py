"""`axoneme lab …`: reads flags and files, prints; the work is in the other modules."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from axoneme.cli import completion
from axoneme.lab import state, topology
from axoneme.lab.errors import LabError
from axoneme.lab.files import root_directory
from axoneme.lab.progress import Progress
from axoneme.lab.state import LabState
from axoneme.lab.topology import Cluster, Topology, TopologyError

if TYPE_CHECKING:
    from types import FrameType

NO_LAB = "no lab is running: `axoneme lab up` starts one"
CHAPTERS = ("policy", "dns", "all")


@click.group(short_help="A laboratory on this machine: clusters, nodes and pods as network namespaces.")
def lab() -> None:
    """A laboratory on this machine: etcd, services, nodes and pods, each in its own network namespace.

    \b
    Examples:
      axoneme lab up                          one cluster, two nodes, three pods
      axoneme lab exec frontend -- curl -sS http://backend:8080
      axoneme lab up --control-plane          no root, no BPF, no packets
      axoneme lab down                        remove everything
    """


@lab.command()
@click.option("--clusters", default=1, metavar="N", help="Number of clusters (1).")
@click.option("--nodes", default=2, metavar="N", help="Nodes per cluster (2).")
@click.option(
    "--pods",
    default="",
    metavar="NAME[@NODE],…",
    help="Pods of each cluster; backend… serve HTTP on 8080 (frontend@node1,batch@node1,backend@node2).",
)
@click.option(
    "--routing-mode",
    type=click.Choice(["direct", "tunnel"]),
    default="direct",
    help="How packets travel between nodes: routed, or in VXLAN (direct).",
)
@click.option(
    "--topology",
    "topology_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with the clusters, instead of the flags above.",
)
@click.option("--control-plane", is_flag=True, help="Services and shims on loopback: no root, no packets.")
@click.option("--keep", is_flag=True, help="Leave everything in place when it fails, for a look.")
@click.option("--quiet", is_flag=True, help="Say nothing on success.")
def up(
    clusters: int,
    nodes: int,
    pods: str,
    routing_mode: str,
    topology_file: Path | None,
    control_plane: bool,
    keep: bool,
    quiet: bool,
) -> None:
    """Start the laboratory.

    \b
    Examples:
      axoneme lab up --nodes 3 --pods web@node1,backend@node3
      axoneme lab up --topology my-lab.yaml

    \b
    A topology:
      clusters:
      - name: east
        nodes:
        - name: node1
          pods:
          - frontend                       label app=frontend
          - {name: db, namespace: shop, labels: {tier: data}, http_port: 5432}
    """
    from axoneme.lab import laboratory

    progress = Progress(quiet=quiet)
    _refuse_mixture(topology_file)
    with _one_line_errors():
        settings = {} if routing_mode == "direct" else {"routing_mode": routing_mode}
        wanted = _topology(clusters, nodes, pods, topology_file, control_plane, settings)
        root = root_directory()
        if (present := state.load(root)) and laboratory.running(present):
            _refuse_other(present, wanted)
            _already_up(present)
            return
        progress.say("starting the lab" + (" (simulated: no packets)" if control_plane else ""))
        with _termination_as_interrupt():
            started = laboratory.up(wanted, root, progress, keep=keep)
        if not quiet:
            click.echo(_summary(started))


@lab.command()
@click.option("--quiet", is_flag=True, help="Say nothing.")
def down(quiet: bool) -> None:
    """Remove the laboratory: processes, namespaces, links, pins and files, also after a crash.

    \b
    Example:
      axoneme lab down
    """
    from axoneme.lab import laboratory

    with _one_line_errors():
        root = root_directory()
        with laboratory.locked(root):
            removed = laboratory.down(root, Progress(quiet=quiet))
    if not quiet:
        click.echo(f"removed: {', '.join(_shortened(removed))}" if removed else "there was no lab")


@lab.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Format (table).")
def status(output: str) -> None:
    """Show processes and pods. Exits 1 when a process is not running.

    \b
    Examples:
      axoneme lab status
      axoneme lab status -o json
    """
    from axoneme.lab import report

    present = _present()
    rows = report.processes(present)
    if output == "json":
        click.echo(json.dumps(report.document(present), indent=2))
    else:
        click.echo(report.text(present))
    sys.exit(any(row.state != "running" for row in rows))


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("pod", shell_complete=completion.lab_pods)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(pod: str, command: tuple[str, ...]) -> NoReturn:
    """Run a command in a pod. Pods know each other by name.

    \b
    Examples:
      axoneme lab exec frontend -- curl -sS http://backend:8080
      axoneme lab exec east/batch -- ping -c 1 backend
    """
    from axoneme.lab import pods

    present = _present()
    with _one_line_errors():
        cluster, _, found = present.topology.find_pod(pod)
        if present.topology.simulated:
            raise LabError("simulated: no packets; this lab has no namespaces to run a command in")
        cgroup = present.plan(cluster).pod_cgroup(found)
        line = pods.command_inside(cluster, found, present.files(cluster), command, cgroup=cgroup)
    os.execvp(line[0], line)  # noqa: S606  # the very point of the command


@lab.command()
@click.option(
    "--cluster",
    "cluster_name",
    default="",
    metavar="NAME",
    shell_complete=completion.clusters,
    help="Cluster (the first one).",
)
def env(cluster_name: str) -> None:
    """Print the environment for other tools: axoneme, the stock hubble CLI, grpcurl.

    \b
    Examples:
      eval "$(axoneme lab env)" && hubble observe     bash, zsh
      axoneme lab env | source                        fish
    """
    present = _present()
    with _one_line_errors():
        for name, value in _environment(present, _cluster(present, cluster_name)).items():
            click.echo(f"export {name}={shlex.quote(value)}")


@lab.command()
@click.option("--chapter", type=click.Choice(CHAPTERS), default="policy", help="Which story.")
def demo(chapter: str) -> None:
    """Tell a story of real packets: starts the lab when none runs, and leaves it up.

    \b
    Example:
      axoneme lab demo
    """
    from axoneme.lab import demo as story

    with _one_line_errors(), _termination_as_interrupt():
        story.tell(chapter, root_directory(), Progress())


def _refuse_mixture(topology_file: Path | None) -> None:
    """A file says all; a flag beside it would be ignored without a word."""
    context = click.get_current_context()
    for name in ("clusters", "nodes", "pods", "routing_mode"):
        if topology_file and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} and --topology exclude each other; write it into {topology_file}"
            )


def _topology(
    clusters: int,
    nodes: int,
    pods: str,
    file: Path | None,
    simulated: bool,
    node_settings: Mapping[str, object],
) -> Topology:
    if file is None:
        names = [name.strip() for name in pods.split(",") if name.strip()]
        return topology.from_flags(
            clusters=clusters, nodes=nodes, pods=names, simulated=simulated, node_settings=node_settings
        )
    import yaml

    try:
        document = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TopologyError(f"{file}: is not YAML: {' '.join(str(error).split())[:256]}") from error
    return topology.from_document(document, where=str(file), simulated=simulated)


def _refuse_other(present: LabState, wanted: Topology) -> None:
    """What was asked for by a flag is not what runs: say so instead of nodding."""
    context = click.get_current_context()
    names = ("clusters", "nodes", "pods", "routing_mode", "topology_file", "control_plane")
    asked = [context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in names]
    if any(asked) and not topology.same(present.topology, wanted):
        raise LabError("a lab of another shape is up: `axoneme lab down` first, then this command again")


def _already_up(present: LabState) -> None:
    from axoneme.lab import laboratory

    running = laboratory.running(present)
    names = {(process.cluster, process.name) for process in running}
    missing = [process.name for process in present.processes if (process.cluster, process.name) not in names]
    if missing or not present.complete:
        fault = f"not running: {', '.join(missing)}" if missing else "its start did not finish"
        raise LabError(f"the lab is up but damaged ({fault}): `axoneme lab down`, then `axoneme lab up`")
    click.echo(_summary(present).replace("the lab is up", "the lab is already up", 1))


def _summary(present: LabState) -> str:
    from axoneme.lab import report

    return report.summary(present)


def _present() -> LabState:
    present = state.load(root_directory())
    if present is None:
        raise click.ClickException(NO_LAB)
    return present


def _cluster(present: LabState, name: str) -> Cluster:
    for cluster in present.topology.clusters:
        if name in ("", cluster.name):
            return cluster
    known = ", ".join(cluster.name for cluster in present.topology.clusters)
    raise LabError(f"--cluster {name}: the lab has {known}")


def _environment(present: LabState, cluster: Cluster) -> dict[str, str]:
    files, addresses = present.files(cluster), present.plan(cluster).addresses
    ca, cert, key = (str(files.certificate("user", name)) for name in ("ca.crt", "tls.crt", "tls.key"))
    return {
        "AXONEME_CONTEXT": str(files.context),
        "AXONEME_RELAY": addresses.relay,
        "AXONEME_IDENTITY": addresses.identity,
        "AXONEME_POLICY": addresses.policy,
        "AXONEME_CLUSTERMESH": addresses.clustermesh,
        "AXONEME_CA": ca,
        "AXONEME_CERT": cert,
        "AXONEME_KEY": key,
        "AXONEME_TRUST_DOMAIN": cluster.trust_domain,
        "HUBBLE_SERVER": addresses.relay,
        "HUBBLE_TLS": "true",
        "HUBBLE_TLS_CA_CERT_FILES": ca,
        "HUBBLE_TLS_CLIENT_CERT_FILE": cert,
        "HUBBLE_TLS_CLIENT_KEY_FILE": key,
        "HUBBLE_TLS_SERVER_NAME": f"relay.{cluster.trust_domain}",
    }


def _shortened(removed: list[str]) -> list[str]:
    namespaces = [text for text in removed if text.startswith("namespace ")]
    others = [text for text in removed if not text.startswith("namespace ")]
    return others + ([f"{len(namespaces)} namespaces"] if namespaces else [])


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (LabError, TopologyError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that a half-built lab is removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
