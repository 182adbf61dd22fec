"""A small Neptune 2.x server for this machine, which the unmodified client talks to over HTTP."""
