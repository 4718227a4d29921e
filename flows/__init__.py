"""When: order, fan-out and retries of the pipeline. Run as `python -m flows.<stage>`."""
