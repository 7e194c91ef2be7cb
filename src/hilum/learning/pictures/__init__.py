"""What a clinician looks at: images rebuilt from their embeddings, mixed, and moved along an attribute."""
