"""The mathematics: plain PyTorch, runnable without any service. Start with `records.py`."""
