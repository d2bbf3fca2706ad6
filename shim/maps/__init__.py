"""The node's BPF maps: their layout in bytes (`layout.py`); the C side of it is `shim/bpf/structs.h`."""
