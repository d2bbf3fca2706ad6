"""Text to rules: documents with positions, readers of every kind of object, faults."""
