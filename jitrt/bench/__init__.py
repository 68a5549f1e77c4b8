"""The peers and models that `jitrt bench --vs` compares with, and how all of them are timed."""
