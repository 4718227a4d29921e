"""Servers that flows need, and the processes that own them."""
