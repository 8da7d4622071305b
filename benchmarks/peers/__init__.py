"""The other clients that ours is compared with, and how each is run."""
