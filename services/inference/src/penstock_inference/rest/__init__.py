"""The REST side of the gateway: Open Inference Protocol v2 and ``/predict/P``."""
