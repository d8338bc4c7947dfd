"""Other projects: BackdoorBench and ANP."""
