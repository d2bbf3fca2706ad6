"""Hubble's metrics: plugins that count flows, over columns where numbers decide."""
