"""Keeps pools of pre-forked workers under supervisord small, one worker at a time.

One way, on each TICK that supervisord sends to the listener:

    listener.loop          answers OK at once
    listener.application   asks what supervisord runs, in one XML-RPC call            -> Program
    listener.reaper        the only place where the steps meet:
      host.roster            which processes make up each pool                        -> Roster
      host.look              their sizes; exact figures where a reason needs them     -> Pool
      following.follow       what became of those signalled before (pure)             -> Event, PoolState
      selection.choose       who goes next, over all pools (pure)                     -> Candidate
      host.attempt           a child process brings it to its boundary, and signals it -> Outcome
    outputs                the log, the counters and announcements get each Event

Nothing in `core` knows a process, a clock or a file.
"""

__version__ = "1.0.0"
