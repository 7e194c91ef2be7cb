"""Fine-tuning one encoder for one label: which rows, which trials, and how covariates join the image."""
