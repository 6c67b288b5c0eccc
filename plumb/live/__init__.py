"""Tuning while training: no run of its own, every batch that is measured is one that is trained on.

tuning   `live_iterator`, the way in, and what is known of a loader from epoch to epoch
iterator what the user's loop gets: batch after batch, each of them measured
meter    what the loop tells of its loader, batch by batch
pilot    reads, tries, keeps the winner, watches
outlook  readings -> the model -> what is worth a trial
"""

from plumb.live.tuning import LiveTuning, live_iterator, tuning_of

__all__ = ["LiveTuning", "live_iterator", "tuning_of"]
