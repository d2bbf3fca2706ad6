"""Load balancing as the shim sees it: which frontends this node has, which backends are behind them, and how
they come into the kernel without a packet ever seeing half of a change.

    SubscribeServices ─► wire ─► model (pure) ─► plan ─► kernel (books, order of writes) ─► maps
                                   ▲ endpoints, node addresses, defaults       ▲ maglev (tables)
"""
