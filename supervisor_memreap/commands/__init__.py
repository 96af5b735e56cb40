"""The commands of `memreap`, a file each."""
