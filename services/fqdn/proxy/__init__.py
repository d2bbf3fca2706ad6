"""The DNS proxy of a node: the hot path, one thread around epoll.

    loop.py        wakes what has something to read; ticks, heartbeat, stop
      udp.py       queries in (inbox.py: many by one call), answers out of raw sockets (datagram.py)
        paths.py   one connected upstream socket per client socket and server
      tcp.py       accepts; connection.py: one client connection with its upstream connection
    lookups.py     query → ruling → forwarded bytes; answer → learned → released. No I/O, for both
    poller.py, sockets.py, frames.py, clients.py, counters.py, mishaps.py: what these need

Nothing here decides who may ask what (`Judge`) or what an answer means for the kernel (`Learner`).
"""
