"""Files: atomic writing, and reading what comes from elsewhere without executing it."""
