"""Layers made of several nodes, as functions of a Builder and Values: every front end builds them the same way."""
