"""From somebody's files to memory-mapped splits."""
