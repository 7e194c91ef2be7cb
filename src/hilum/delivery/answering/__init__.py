"""What an answer says beside its number: whether the image is of the kind, what is like it, what moved it."""
