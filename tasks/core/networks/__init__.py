"""Encoders, and the dual encoder as a module and as a function of two vectors."""
