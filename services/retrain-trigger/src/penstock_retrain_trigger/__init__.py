"""Retrain trigger: decides about requests, runs the training, and leads the new version in."""
