"""Lists the exit codes of the commands, by number.

`session.answering` decides first, by the error that ended the command: MENDABLE, INTERRUPTED or FAILED. A command that
ends well may say DRIFTED. At last `streams` says UNREAD or MENDABLE where the result cannot be written.
"""

DONE = 0
FAILED = 1  # an error that nobody expected
MENDABLE = 2  # an error that a person can mend; Typer's code for a wrong option too
DRIFTED = 3  # `monitor` found images of another kind
INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended
UNREAD = 141  # what a shell calls a command whose reader went away, such as `head`
