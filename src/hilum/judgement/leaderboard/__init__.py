"""Which encoder is better, where that can be said at all."""
