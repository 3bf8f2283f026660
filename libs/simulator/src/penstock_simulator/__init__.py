"""Simulated industry data with plantable drift, published as any foreign producer would."""
