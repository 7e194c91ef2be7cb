"""What callers reach: servers over the desk, and the forms in which requests and answers travel."""
