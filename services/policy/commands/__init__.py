"""The commands of `axoneme policy` beside apply, get, delete and list."""
