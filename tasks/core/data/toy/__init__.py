"""The scenes of the embedded dataset: what is in them, how they are drawn and described."""
