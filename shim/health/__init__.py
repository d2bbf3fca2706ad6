"""Whether nodes reach each other: probes of every node's addresses, and what answers them.

    node stream ─► targets ─► HealthTable (when, and with which result) ◄─► Prober ─► HTTP and ICMP
    HealthResponder: `GET /hello` on the node's own addresses, and in the namespace of its health endpoint

A node that cannot be reached is shown, nothing more: no decision is made from a probe.
"""
