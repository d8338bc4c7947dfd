"""Ways in and out: files and recipes of other projects. Nothing that comes in is executed."""
