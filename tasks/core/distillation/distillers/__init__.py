"""One file per distillation method; the file name is the public name (see `tasks/README.md`)."""
