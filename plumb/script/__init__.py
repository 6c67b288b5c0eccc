"""A user's script in a child process: launcher, interception, session, ranks."""
