"""Pipelines as data: the model of ``pipeline.yaml``, its loader and its JSON Schema."""
