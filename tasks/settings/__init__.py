"""The only reader of params.yaml: typed sections, overrides and variants."""
