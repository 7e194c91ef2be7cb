"""The phantom's anatomy: a drawn chest, a drawn brain, and the people who have them, with causes that are known."""
