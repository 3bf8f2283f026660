"""The routing topic: which versions a pipeline serves, and with what share of the keys."""
