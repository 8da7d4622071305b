"""What follows from records by arithmetic alone: ratios, intervals, where a speed-up went."""
