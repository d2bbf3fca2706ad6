"""Tests of the DNS proxy of a node."""
