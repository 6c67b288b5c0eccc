"""Guards: when a loader must not run on a plan's configuration any longer."""
