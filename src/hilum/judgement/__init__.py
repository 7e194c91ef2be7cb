"""What the embeddings are worth, to whom: probes, fairness, comparison, gate."""
