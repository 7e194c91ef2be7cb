"""Reports on real images by one command (`python benchmarks/reports`), and their summaries for docs/results."""
