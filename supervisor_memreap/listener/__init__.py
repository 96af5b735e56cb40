"""The event listener: what it does at each event of supervisord, and what it keeps between two of them."""
