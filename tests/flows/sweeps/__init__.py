"""Tests of flows/sweeps/."""
