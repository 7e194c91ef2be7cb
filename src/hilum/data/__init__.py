"""Facts and sources: the dataset folder, and the ways into it."""
