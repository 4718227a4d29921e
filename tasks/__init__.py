"""The steps of the pipeline (`tasks/<verb>.py`) and the mathematics below them (`tasks/core`)."""
