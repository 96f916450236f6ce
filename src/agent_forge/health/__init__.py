"""The premortem as code: what can fail, how it is seen, what is done about it."""
