"""What covariates add to the image."""
