"""The demo: the loop watched from outside, by what anyone may read from its topics."""
