"""Flows on disk, so that history survives a restart: off unless a directory is given."""
