"""Real pairs: the pool, and the methods that choose from it."""
