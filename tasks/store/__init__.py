"""Artifacts: folders with a manifest, found again by their key."""
