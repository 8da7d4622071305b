"""The other clients that quantbench's is compared with, and how each is run."""
