"""Fresh students on a set, and how well they retrieve."""
