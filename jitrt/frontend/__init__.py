"""Front ends: each turns one kind of model into a plain graph, and nothing more."""
