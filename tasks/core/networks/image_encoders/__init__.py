"""One file per image encoder; the file name is the public name (see `tasks/README.md`)."""
