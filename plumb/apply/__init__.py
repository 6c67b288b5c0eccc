"""A plan -> a patch of the user's source, as far as torch's own arguments can say it.

`source` finds the calls that make loaders, `layout` edits a call's arguments and keeps how they are written, `origins`
says where a value that is not written in the call comes from, `amend` decides for one call, `patch` for a whole plan.
"""
