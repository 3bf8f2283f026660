"""Dead letters, replays and offsets: selected, guarded, copied exactly once, audited."""
