"""Ingest: events in, validated and enriched feature vectors out."""
