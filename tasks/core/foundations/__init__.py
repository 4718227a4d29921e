"""What travels between the rooms of the core: records, seeds, files of tensors, plugins by name."""
