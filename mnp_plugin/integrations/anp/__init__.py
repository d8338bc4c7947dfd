"""The recipe and the files of the ANP repository."""
