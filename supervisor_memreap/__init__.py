"""Keeps pools of pre-forked FastCGI workers under supervisord small, without cutting a request.

One way, on each TICK that supervisord sends to the listener:

    listener            answers OK at once, then asks for one
    reaper.Reaper.tick  the only place where the steps meet:
      client.programs()     what supervisord runs     one XML-RPC call  -> Program
      look.look()      what the kernel says      one scan          -> Pool, Worker
      policy.decide()       pure: values in and out                     -> Verdict, PoolState
      signalling.reap()      looks again, then signals                   -> Outcome
      report.line()         what is told

Nothing in `core` knows a process, a clock or a file; nothing below imports anything above it.
"""

__version__ = "0.1.0"
