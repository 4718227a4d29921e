"""One file per text encoder; the file name is the public name (see `tasks/README.md`)."""
