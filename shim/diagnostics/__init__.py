"""Tracing of the node's kernel on demand: `axoneme trace`."""
