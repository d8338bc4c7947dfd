"""The vocabulary: what a method is, what it is given, and where it is registered."""
