"""From the recorded history of a pool to how it grows, a limit, and how sure that is. Pure."""
