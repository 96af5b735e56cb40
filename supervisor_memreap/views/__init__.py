"""What `memreap status` and `memreap top` show."""
