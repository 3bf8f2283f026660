"""What every service shows of itself: health endpoints, metrics and structured logs."""
