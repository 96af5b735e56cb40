"""What the history shows: texts, pictures and pages."""
