"""One file per coreset method; the file name is the public name (see `tasks/README.md`)."""
