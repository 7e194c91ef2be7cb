"""Engines: what runs a release's graph, each with its precision said aloud."""
