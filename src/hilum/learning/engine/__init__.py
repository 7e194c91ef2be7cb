"""What turns steps into a run: the images and where they lie, the workers, the random numbers, the checkpoints."""
