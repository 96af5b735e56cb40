"""The history: where it is, its file, what is written to it and read from it."""
