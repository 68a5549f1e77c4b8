"""From a region to Triton source and from there to a cubin."""
