"""Feature vectors in, predictions out: the loop inside Ray Serve replicas, and the gateway."""
