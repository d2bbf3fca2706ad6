"""What a node makes of its flows beside showing them: Hubble's metrics, files of flows, redaction."""
