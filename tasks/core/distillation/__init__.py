"""Synthetic pairs and the loop that moves them."""
