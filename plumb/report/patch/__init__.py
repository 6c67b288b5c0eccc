"""Conversion of a plan into a patch of the user's source, as far as torch's own arguments can express the plan.

`call_chain` finds the calls that made a loader when it was tuned, in the files of `sources`. `argument_layout` edits a
call's arguments and keeps their formatting; `value_origin` and `option_origin` find where a value comes from that is
not written in the call, `shared_origins` which other loaders it changes. `call_edit` changes one call, `patch` converts
a whole plan.
"""
