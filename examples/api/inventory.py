"""Prints the nodes, identities and policies of a cluster. Synchronous API.

    python examples/api/inventory.py [--context FILE]

Without --context it uses $AXONEME_CONTEXT, your own context file or the running lab, as `axoneme` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.client import AxonemeError, Client, load_context


def nodes(client: Client) -> Iterator[identity_pb2.Node]:
    """Every node; lists come in pages."""
    token = ""
    while True:
        request = identity_pb2.ListNodesRequest(page_size=100, page_token=token)
        page = client.identity.ListNodes(request)
        yield from page.nodes
        token = page.next_page_token
        if not token:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context")
    arguments = parser.parse_args()
    try:
        with Client(load_context(arguments.context)) as client:
            for node in nodes(client):
                print(f"node {node.name} {' '.join(node.internal_ips)} pods {' '.join(node.pod_cidrs)}")
            for identity in client.identity.ListIdentities(identity_pb2.ListIdentitiesRequest()).identities:
                print(f"identity {identity.identity} {' '.join(identity.labels)}")
            for policy in client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).policies:
                print(f"policy {policy.kind} {policy.namespace}/{policy.name} generation {policy.generation}")
    except AxonemeError as error:
        # `code` is the gRPC status, `reason` a word to compare with; the text is for people.
        print(f"{error.code} {error.reason}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
