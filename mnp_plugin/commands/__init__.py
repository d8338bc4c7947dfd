"""Groups of verbs of the command line, one file each."""
