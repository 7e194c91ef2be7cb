"""Networks from an image to features."""
