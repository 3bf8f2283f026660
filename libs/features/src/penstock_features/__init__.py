"""Feature vectors: declarative transforms, keyed aggregates and Feast online reads."""
