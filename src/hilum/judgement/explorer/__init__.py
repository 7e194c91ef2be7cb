"""What the embedding looks like to a person: maps, sheets, and the page on which to walk about in it."""
