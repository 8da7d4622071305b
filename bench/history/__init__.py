"""What a results folder holds over time: an index of its runs, and the names that select them."""
