"""For people with one model: repair it or judge it, in one call, from Python objects or from files."""
