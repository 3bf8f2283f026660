"""What every service has: command, settings, logs, metrics, health endpoints."""
