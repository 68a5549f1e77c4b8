"""Ways into jitrt from other programs."""
