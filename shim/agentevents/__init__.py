"""What happened on the node, as the agent events of the Hubble API: who tells, and the newest of it."""
