"""What other services and other replicas wrote into the store, as far as policy needs it."""
