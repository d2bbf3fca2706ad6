"""The key-value store of a cluster: the port (`port`), etcd (`etcd`), a verified fake (`memory`), `follow`.

Services keep all cluster state here and nowhere else. Keys are text, values bytes, prefixes end in "/".
"""
