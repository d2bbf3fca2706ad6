"""What the shim does for DNS-aware policy; the node's DNS proxy is a process of its own (services/fqdn).

order          pure: which redirects may be switched to, what the proxy is told of them
identities     one number per (prefix, set of DNS selectors): ahead of need, on demand, and back
table          the file through which the proxy knows these numbers
learned        axoneme_learned, which the proxy writes and the shim cleans
proxiedports   axoneme_proxied: ports whose answers the programs look for
nodedns        all of this as one part of the policy sink
session        SyncRedirects: the proxy's side of the order
names, lookups what endpoints asked, for display
"""
