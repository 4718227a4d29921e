"""When: order, fan-out and retries of the pipeline. Run as `vl-distillery <stage>`."""
