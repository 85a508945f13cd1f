"""What follows on a call: the rest of its chain, and the group that it belongs to."""
