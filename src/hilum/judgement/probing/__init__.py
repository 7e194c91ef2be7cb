"""What a probe reads from frozen embeddings, and the head that a release answers with."""
