"""The main job before your eyes: a private supervisord, a pool that leaks, load on it, and the real listener."""
