"""What a run makes, one kind of job per file: assets, victims, repaired nets, scores."""
