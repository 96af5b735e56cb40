"""`memreap demo`: the main job before your eyes, on a supervisord of its own. Nothing else imports this package."""
