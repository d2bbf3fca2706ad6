"""The only process of a node that holds capabilities: a closed list of requests over a root-only socket."""
