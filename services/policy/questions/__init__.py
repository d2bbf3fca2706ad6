"""Explain, diff and replay: what the policies mean for a flow or a change."""
