"""One file per dataset; the file name is the public name (see `tasks/README.md`)."""
