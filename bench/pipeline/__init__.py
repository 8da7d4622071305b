"""Execute one planned run, stage by stage, and store every result as soon as it exists."""
