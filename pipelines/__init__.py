"""Pipelines: what is run in which order, on what machines; the work itself is in hilum."""
