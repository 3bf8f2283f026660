"""Drift: finds changes in predictions and labels, and asks for a retraining."""
