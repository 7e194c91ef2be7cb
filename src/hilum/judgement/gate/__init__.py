"""May this encoder be released? What is asked of its evidence, the verdict, and the page that tells it."""
