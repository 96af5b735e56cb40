"""What gets the events and looks of the listener, and how they are worded."""
