"""Sweeps: cells that workers make, and the light process that hands them out."""
