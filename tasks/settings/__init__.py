"""The only reader of params.yaml and presets.yaml: typed sections, overrides and variants."""
