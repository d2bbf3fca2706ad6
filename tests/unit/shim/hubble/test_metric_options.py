"""Lists of metrics as Cilium writes them."""

from __future__ import annotations

import pytest

from axoneme.lib import config
from axoneme.lib.errors import InvalidArgument
from shim.config import ShimConfig
from shim.hubble.metrics.options import PLUGIN_FLAGS, Contexts, PluginOptions, parse_metrics
from shim.hubble.metrics.plugins import PLUGINS


def test_flags_and_contexts() -> None:
    found = parse_metrics(
        "m",
        [
            "dns:query;ignoreAAAA",
            "drop:sourceContext=pod|namespace;destinationIngressContext=app",
            "httpV2:exemplars=true;labelsContext=traffic_direction,source_ip",
            "flows-to-world:any-drop=false;port",
            "tcp",
        ],
    )
    assert found == (
        PluginOptions(name="dns", flags=frozenset(("query", "ignoreAAAA"))),
        PluginOptions(
            name="drop", contexts=Contexts(source=("pod", "namespace"), destination_ingress=("app",))
        ),
        PluginOptions(
            name="httpV2",
            flags=frozenset(("exemplars",)),
            contexts=Contexts(labels=("source_ip", "traffic_direction")),
        ),
        PluginOptions(name="flows-to-world", flags=frozenset(("port",))),
        PluginOptions(name="tcp"),
    )


def test_commas_and_spaces_separate_but_not_labels() -> None:
    """A flag or an environment variable gives one text, which is split at its commas."""
    text = "drop:labelsContext=source_ip,destination_pod;sourceContext=pod,dns:query tcp"
    want = [
        PluginOptions(
            name="drop", contexts=Contexts(source=("pod",), labels=("source_ip", "destination_pod"))
        ),
        PluginOptions(name="dns", flags=frozenset(("query",))),
        PluginOptions(name="tcp"),
    ]
    assert list(parse_metrics("m", [text])) == want
    assert list(parse_metrics("m", text.split(","))) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flws", "'flws' is no metric; known are dns"),
        ("flow:query", "flow has no option 'query'"),
        ("flow:sourceContext=pods", "flow: sourceContext 'pods'; known are identity"),
        ("flow:sourceContext=", "sourceContext ''"),
        ("flow:labelsContext=source_name", "labelsContext has no 'source_name'"),
        ("dns:query=maybe", "write true or false"),
        ("flow,flow", "gives 'flow' twice"),
        ("http,httpV2", "choose one"),
    ],
)
def test_errors_name_the_option(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as error:
        parse_metrics("hubble_metrics", text.split(","))
    assert error.value.violations[0].field == "hubble_metrics"


def test_every_plugin_can_be_asked_for() -> None:
    assert list(PLUGINS) == list(PLUGIN_FLAGS)


def test_a_nodes_configuration_checks_them() -> None:
    base = {"node_name": "n1"}
    loaded = config.load(ShimConfig, flags=base | {"hubble_metrics": "dns:query,drop"}, environ={})
    assert loaded.hubble_metrics == ("dns:query", "drop")
    for name, value in (
        ("hubble_metrics", "nothing"),
        ("hubble_metrics_address", "9968"),
        ("hubble_metrics_max_series", "0"),
        ("hubble_export_max_size_mb", "0"),
    ):
        with pytest.raises(InvalidArgument) as error:
            config.load(ShimConfig, flags=base | {name: value}, environ={})
        assert error.value.violations[0].field == name
    with pytest.raises(InvalidArgument, match="exclude each other"):
        ShimConfig(
            node_name="n1",
            hubble_redact_http_headers_allow=("a",),
            hubble_redact_http_headers_deny=("b",),
        )
