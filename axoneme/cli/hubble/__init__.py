"""What the commands of flows share: settings, the way to a server, streams and printers.

flag > HUBBLE_* > config.yaml > default  (settings, options)
                  │
context or --server ──► Server (server) ──► bytes of responses (flowstream) ──► follow ──► printers
"""
