"""Flows in files: JSON lines, rotated by size, chosen by filters that may change while the node runs."""
