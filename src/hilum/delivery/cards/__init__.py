"""Cards for people: what a release and its dataset are, from measured values alone."""
