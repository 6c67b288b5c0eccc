"""One epoch of a loader, by whichever workers, in the order of the user's own configuration."""
