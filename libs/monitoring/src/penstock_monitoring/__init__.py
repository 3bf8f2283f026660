"""What training writes and drift detection reads: pure, no I/O."""
