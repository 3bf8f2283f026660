"""The embedded stack: real Kafka, registry, Triton, Ray and MLflow as supervised processes."""
