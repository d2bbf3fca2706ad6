"""The DNS proxy of a node: which names an endpoint may look up, and which addresses it learned."""
