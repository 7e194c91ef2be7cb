"""Making a release: the graph, its proof, and the folder that holds both with their evidence."""
