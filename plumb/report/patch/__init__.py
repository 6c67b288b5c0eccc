"""Conversion of a plan into a patch of the user's source, as far as torch's own arguments can express the plan.

`source` finds the calls that make loaders, `layout` edits a call's arguments and keeps their formatting, `origins`
finds where a value comes from that is not written in the call, `amend` changes one call, `patch` converts a whole plan.
"""
