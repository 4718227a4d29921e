"""Losses, augmentation, one epoch, one expert, and the sets that students train on."""
