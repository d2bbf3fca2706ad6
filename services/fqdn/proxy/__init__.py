"""The hot path: sockets, and the way of a query from an endpoint to its resolver and back."""
