"""A simulated machine: supervisord, managers, workers, requests, memory and time, all driven by one seed.

The real reaper runs on it (host.machine is the door). `python -m tests.sim --help` shows how to run it.
"""
