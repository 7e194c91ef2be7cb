"""A client of hilum's servers."""
