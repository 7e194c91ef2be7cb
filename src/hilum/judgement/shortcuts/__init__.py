"""Does the embedding hold what it should not need, and could the answer come from that instead of from the disease?"""
