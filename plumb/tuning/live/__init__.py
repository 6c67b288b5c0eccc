"""Tuning during training: nothing runs separately, and every measured batch is one that is trained on.

loader_state       `live_iterator`, the entry point, and a loader's state from epoch to epoch
live_iterator      iterator for the user's loop, which measures each batch
meter              measurement of the loop, batch by batch
controller         measures, tries, keeps the best, watches
candidates         from measurements by the model to the configuration that is worth a trial
background_search  rewrites, found in a process beside the training
"""

from plumb.tuning.live.loader_state import LiveTuning, live_iterator, tuning_of

__all__ = ["LiveTuning", "live_iterator", "tuning_of"]
